package appscan

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// disk is a report as it lies on the disk.
func disk(records ...string) []byte {
	b := []byte(strings.Join(append([]string{reportVersion}, records...), "\x00") + "\x00")
	return append(b, make([]byte, ReportSize-len(b))...)
}

func TestParseReport(t *testing.T) {
	good := disk("c202", "n317", "a41.10", "r41.10", "p/proc/N/stat", "u@", "l/lib/x.so", "x/bin/app", "mtmpfs", "!", "e7")
	r, err := ParseReport(good)
	if err != nil || !r.Ended || r.Status != 7 || !r.Full || !r.Started() || len(r.has) != 11 {
		t.Errorf("ParseReport() = %+v, %v; want 11 records, full, and the end with status 7", r, err)
	}
	// Wherever the report is cut, what stands before is true.
	for n := range len(reportVersion) + 60 {
		r, err := ParseReport(good[:n])
		if err != nil && n > len(reportVersion) || err == nil && len(r.has) > 11 {
			t.Errorf("ParseReport() of %d bytes = %+v, %v", n, r, err)
		}
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"nothing":            {nil, "no report"},
		"zeros":              {make([]byte, ReportSize), "no report"},
		"huge":               {make([]byte, ReportSize+1), "at most"},
		"another version":    {[]byte("uvm-trace 2\x00c1\x00"), "not of the version"},
		"text":               {[]byte("hello\x00"), "not of the version"},
		"behind the end":     {append([]byte(reportVersion+"\x00\x00"), 'c'), "behind its end"},
		"unknown letter":     {disk("z1"), `damaged at byte 12: "z1"`},
		"no number":          {disk("c"), "damaged"},
		"a sign":             {disk("c+1"), "damaged"},
		"a needless digit":   {disk("c01"), "damaged"},
		"a number too large": {disk("c1024"), "damaged"},
		"a value too large":  {disk("a1.4294967296"), "damaged"},
		"a value alone":      {disk("a1"), "damaged"},
		"a value in hex":     {disk("a1.0x10"), "damaged"},
		"a line break":       {disk("p/proc/x\nCONFIG_MODULES=y"), "damaged"},
		"an escape sequence": {disk("x/bin/\x1b[2J"), "damaged"},
		"not ASCII":          {disk("mé"), "damaged"},
		"another folder":     {disk("p/etc/passwd"), "damaged"},
		"no path":            {disk("xapp"), "damaged"},
		"a long path":        {disk("x/" + strings.Repeat("a", 255)), "damaged"},
		"a full report's x":  {disk("!x"), "damaged"},
		"a status too large": {disk("e256"), "damaged"},
		"after the end":      {disk("e0", "c1"), "damaged"},
	} {
		if r, err := ParseReport(c.b); err == nil || !strings.Contains(err.Error(), c.want) || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("%s: ParseReport() = %+v, %v; want an error with %q", name, r, err, c.want)
		}
	}
}

func TestShows(t *testing.T) {
	for _, c := range []struct {
		records string
		used    string // the first options' names
		weak    string
	}{
		{"c202 c273 c334", "FUTEX", "FUTEX RSEQ"},
		{"c273", "", "FUTEX"},
		{"c317 n317", "", "SECCOMP"},
		{"c317", "SECCOMP", ""},
		{"c41 a41.10", "IPV6", ""},
		{"c41 a41.10 r41.10", "", "IPV6"},
		{"c41 a41.1 u/var/run/nscd/socket", "", "UNIX"},
		{"c41 a41.1 u/var/run/nscd/socket u/run/app", "UNIX", ""},
		{"c41 a41.1", "UNIX", ""},
		{"c53 a53.1 u/var/run/nscd/socket", "UNIX", ""},
		{"c72 a72.1", "", ""},
		{"c72 a72.6", "FILE_LOCKING", ""},
		{"c56 a56.18874385", "", ""}, // CLONE_VM | CLONE_FS, as for a thread
		{"c56 a56.536870912", "NAMESPACES", ""},
		{"c272 a272.131072 r272.131072", "", "NAMESPACES"},
		{"c272 a272.1024", "", ""},
		{"c9 a9.262144", "HUGETLBFS", ""},
		{"c29 a29.2048", "SYSVIPC HUGETLBFS", ""},
		{"c28 a28.14", "ADVISE_SYSCALLS TRANSPARENT_HUGEPAGE", ""},
		{"c54 a54.35", "IP_MULTICAST", ""},
		{"c16 a16.2147767344 p/dev/ptmx", "UNIX98_PTYS", ""},
		{"c165 mtmpfs moverlay mext4", "SHMEM OVERLAY_FS", ""},
		{"p/proc/sys/vm/overcommit_memory p/dev/null", "PROC_FS PROC_SYSCTL", ""},
		{"p/procedure", "", ""},
		{"p/sys/devices/system/cpu/online p/proc/sys/kernel/ngroups_max", "", "PROC_FS PROC_SYSCTL SYSFS"},
		{"p/proc/self/exe", "", "PROC_FS"},
		{"p/sys/devices/system/cpu/online p/sys/kernel/mm", "SYSFS", "SYSFS"},
		{"c0 c1 c2 c59", "", ""},
	} {
		r := &Report{has: map[string]bool{}}
		for _, s := range strings.Fields(c.records) {
			r.has[s] = true
		}
		var used, weak []string
		for i := range options {
			u, w := r.shows(&options[i])
			if len(u) > 0 {
				used = append(used, options[i].config[0])
			}
			if len(w) > 0 {
				weak = append(weak, options[i].config[0])
			}
		}
		if strings.Join(used, " ") != c.used || strings.Join(weak, " ") != c.weak {
			t.Errorf("%s: used %q, weak %q; want %q and %q", c.records, used, weak, c.used, c.weak)
		}
	}
}

// lookedAt is a program with two libraries, of which one is the C library.
func lookedAt() *Uses {
	files := []*object{{path: "/usr/bin/app", label: "app"}, {path: "/lib/libx.so.1", label: "libx.so.1"}, {path: "/lib/libc.so.6", label: "libc.so.6"}}
	return &Uses{
		Calls:    map[int]string{202: "app calls pthread_create", 334: "app calls pthread_create"},
		Own:      map[int]map[string]bool{},
		Callers:  map[string]map[string]bool{"pthread_create": {"app": true}, "epoll_wait": {"app": true}, "signalfd": {"libx.so.1": true}, "dlopen": {"app": true}},
		families: map[int16]map[string]bool{}, locks: map[string]bool{}, files: files, programs: map[string]bool{"app": true},
	}
}

func TestJoined(t *testing.T) {
	r, err := ParseReport(disk("c202", "c253", "c334", "n248", "c248", "a16.21505", "p/proc/cpuinfo", "x/usr/bin/app", "x/bin/sh", "l/lib/libc.so.6", "l/lib/plugin.so"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := lookedAt().Joined(&b, r, "Made by: a test\nCONFIG_MODULES=y", "The run: short."); err != nil {
		t.Fatal(err)
	}
	const want = `# on: lupine-base
#
# Made by: a test?CONFIG_MODULES=y
# The run: short.

# Seen in use, and found in the code.

# seen in use: futex
# in the code: pthread_create (app); the C library's locks wait by it; a process with one thread never waits, and set_robust_list may fail
CONFIG_FUTEX=y

# Seen in use, and not found in the code: by scripts, by what is loaded or started meanwhile, or by the start of the program.

# seen in use: inotify_init
CONFIG_INOTIFY_USER=y

# seen in use: /proc/cpuinfo; it has to be mounted
CONFIG_PROC_FS=y

# The program's own code asks for these, and the run did not come there. Without them what the run did works.

# asked for by the code, not seen: epoll_wait (app)
CONFIG_EPOLL=y

# Not seen in use, or without effect; only libraries ask for these. Try without:
#? CONFIG_SIGNALFD: asked for by the code, not seen: signalfd (libx.so.1)
#? CONFIG_RSEQ: seen: rseq, which the C library tries at each start; asked for by the code: rseq (as app calls pthread_create); the C library tries it at each start of a thread and does without
#? CONFIG_KEYS: seen: add_key, which the run's kernel does not have either

# Not seen:
# - what the application did not do in the run: it made 4 different system calls
# - its end: the run was over before the program had ended
# - the code of /bin/sh, which the run started; name them as programs to look at them
# - the code of /lib/plugin.so, which the run loaded; name them as programs to look at them
# - what the program does when these system calls exist, which the run's kernel does not have: add_key
# - what these requests of ioctl take: 0x5401
# - what app loads while it runs (dlopen): plug-ins, modules, name services; name them as programs to look at them
# - files named from an open folder or the working directory, unless they were opened; what io_uring does; what the kernel does unasked
`
	if b.String() != want {
		t.Errorf("Joined() = %s\nwant %s", &b, want)
	}
}

// TestOptionsOnce holds the table together: each option has one line, and each system call in it a name.
func TestOptionsOnce(t *testing.T) {
	have := map[string]bool{}
	for _, o := range options {
		for _, c := range o.config {
			if have[c] {
				t.Errorf("CONFIG_%s stands in two lines", c)
			}
			have[c] = true
		}
		for _, n := range o.calls {
			if callNames[n] == "" {
				t.Errorf("%v: system call %d has no name", o.config, n)
			}
		}
	}
}

// commentOrOption is every line that a fragment may have.
var commentOrOption = regexp.MustCompile(`^(|#.*|CONFIG_[A-Z0-9_]+=y)$`)

// FuzzReport has a guest that writes what it wants: no panic, and nothing in the fragment but our options.
func FuzzReport(f *testing.F) {
	f.Add(disk("c202", "a41.10", "p/proc/x", "x/bin/app", "e0")[:200])
	f.Add([]byte(reportVersion + "\x00x/a\nCONFIG_MODULES=y\x00"))
	f.Add([]byte("uvm-trace 1\x00!\x00u@\x00"))
	known := map[string]bool{}
	for _, o := range options {
		for _, c := range o.config {
			known["CONFIG_"+c+"=y"] = true
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseReport(b)
		if err != nil {
			return
		}
		for s := range maps.Keys(r.has) {
			if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Errorf("record %q is not printable", s)
			}
		}
		var out strings.Builder
		if err := lookedAt().Joined(&out, r, fmt.Sprintf("%d", r.Status)); err != nil {
			t.Fatal(err)
		}
		for _, line := range slices.Collect(strings.SplitSeq(out.String(), "\n")) {
			if !commentOrOption.MatchString(line) || strings.HasPrefix(line, "CONFIG_") && !known[line] {
				t.Errorf("the fragment has a line %q", line)
			}
		}
	})
}
