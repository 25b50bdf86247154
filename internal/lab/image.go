package lab

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/uvm-monitor/uvm/internal/lab/wire"
)

// srcDir is where the repository's files lie in the lab, at the same places
// below it.
const srcDir = "/src"

// environment is what every job has.
var environment = []string{
	"PATH=/usr/bin:/bin:/usr/sbin:/sbin:" + srcDir + "/bin",
	"HOME=/root",
	"TMPDIR=/tmp",
	"TERM=linux",
	EnvLab + "=1",
}

// built is what this process has compiled for the lab.
type built struct {
	agent, uvm []byte
	guests     map[string][]byte // by file name
}

// ours compiles the agent, uvm and the guests, once in a process.
var ours = sync.OnceValues(func() (*built, error) {
	root, err := moduleRoot()
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "uvm-lab-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	b := &built{guests: map[string][]byte{}}
	for name, to := range map[string]*[]byte{"internal/lab/agent": &b.agent, "cmd/uvm": &b.uvm} {
		out := filepath.Join(tmp, path.Base(name))
		if err := goBuild(root, out, "./"+name); err != nil {
			return nil, err
		}
		if *to, err = os.ReadFile(out); err != nil {
			return nil, err
		}
	}
	// In a folder of its own: another make may be at work in bin/guests.
	dir := filepath.Join(tmp, "guests")
	if _, err := run(root, "make", "-s", "-j2", "-C", "guests", "OUT="+dir); err != nil {
		return nil, fmt.Errorf("lab: the sample guests do not build: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.hvt"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("lab: make -C guests made no guests in %s", dir)
	}
	for _, f := range files {
		if b.guests[filepath.Base(f)], err = os.ReadFile(f); err != nil {
			return nil, err
		}
	}
	return b, nil
})

// goTool runs the go command for static binaries.
func goTool(dir string, args ...string) error {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("lab: go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// goBuild builds programs as the Makefile does: uvm with its own entry point, which
// changes how the runtime behaves. out is a file, or for several programs a folder.
func goBuild(root, out string, programs ...string) error {
	ldflags := "-s -w -buildid="
	if slices.Contains(programs, "./cmd/uvm") {
		ldflags += " -E _rt0_uvm"
	}
	return goTool(root, append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=" + ldflags, "-o", out}, programs...)...)
}

// makeGuest makes one of the files of guests/, in the folder dir.
func makeGuest(root, dir, name string) error {
	_, err := run(root, "make", "-s", "-C", "guests", "OUT="+dir, filepath.Join(dir, name))
	return err
}

// writeImage writes the initramfs: busybox, the modules, what ours builds,
// the plan, and extra.
func writeImage(file string, parts *Parts, o *Options, plan *wire.Plan, extra func(*archive) error) (err error) {
	b, err := ours()
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() {
		if e := f.Close(); err == nil {
			err = e
		}
	}()
	a := newArchive(f)
	a.device("/dev/console", 5, 1)
	a.device("/dev/null", 1, 3)
	a.bytes("/init", modeExec, b.agent)
	if err := addBusybox(a, parts.Busybox); err != nil {
		return err
	}
	for _, f := range [][2]string{
		{"/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
		{"/etc/group", "root:x:0:\ntty:x:5:\nkvm:x:104:\nnogroup:x:65534:\n"},
		{"/etc/hosts", "127.0.0.1 localhost\n"},
		{"/root/.profile", shellProfile},
	} {
		a.bytes(f[0], modeFile, []byte(f[1]))
	}
	mods, err := parts.modules(append(append([]string(nil), standardModules...), o.Modules...))
	if err != nil {
		return err
	}
	for _, m := range mods {
		if !omitted(o, m.file) {
			plan.Modules = append(plan.Modules, m.file)
			a.bytes(wire.ModuleDir+m.file, modeFile, m.content)
		}
	}
	a.bytes("/bin/make", modeExec, []byte(makeScript))
	a.bytes(srcDir+"/bin/uvm", modeExec, b.uvm)
	a.link(srcDir+"/bin/solo5-hvt", "uvm")
	// In a fixed order: where things lie in memory is part of a measurement.
	for _, name := range slices.Sorted(maps.Keys(b.guests)) {
		a.bytes(srcDir+"/bin/guests/"+name, modeExec, b.guests[name])
	}
	for _, name := range slices.Sorted(maps.Keys(o.Files)) {
		a.file(name, o.Files[name])
	}
	for _, t := range o.Tools {
		if err := addTool(a, t); err != nil {
			return err
		}
	}
	if extra != nil {
		if err := extra(a); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(plan, "", "\t")
	if err != nil {
		return err
	}
	a.bytes(wire.PlanPath, modeFile, data)
	return a.close()
}

func omitted(o *Options, file string) bool {
	for _, m := range o.omitModules {
		if m+".ko" == file {
			return true
		}
	}
	return false
}

func addBusybox(a *archive, busybox string) error {
	a.file("/bin/busybox", busybox)
	applets, err := run("/", busybox, "--list")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(applets) {
		if name != "busybox" {
			a.link("/bin/"+name, "busybox")
		}
	}
	return nil
}

// lddLine matches a library that the dynamic loader found, or the loader
// itself, in the output of ldd.
var lddLine = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x`)

// addTool adds a program of this machine's to /usr/bin, and its libraries at
// the places where they lie here.
func addTool(a *archive, name string) error {
	file, err := tool(name)
	if err != nil {
		return err
	}
	a.file("/usr/bin/"+filepath.Base(name), file)
	libs, err := run("/", "ldd", file)
	if err != nil {
		// ldd's status says so of static programs too.
		return nil
	}
	for _, m := range lddLine.FindAllStringSubmatch(libs, -1) {
		if !a.has[strings.TrimPrefix(m[1], "/")] {
			a.file(m[1], m[1])
		}
	}
	return nil
}

// makeScript stands in for the one thing that tests ask of make: the sample
// guests in a folder of theirs. They have been built outside already.
const makeScript = `#!/bin/sh
out=
for word; do
	case $word in
	OUT=*) out=${word#OUT=} ;;
	esac
done
[ -n "$out" ] || { echo "make in the lab: want make -C guests OUT=DIR, got: $*" >&2; exit 2; }
exec cp ` + srcDir + `/bin/guests/*.hvt "$out/"
`

// shellProfile greets in make lab-shell.
const shellProfile = `[ -n "$LINES" ] && stty rows $LINES cols $COLUMNS
cd ` + srcDir + `
PS1='lab:\w# '
cat <<'END'
The lab: uvm, solo5-hvt and busybox are on PATH, the guests in ` + srcDir + `/bin/guests.
For example: uvm run bin/guests/compute.hvt -- sse
Ctrl-A X ends it, and so does exit.
END
`
