package main

import (
	"encoding/json"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/uvm-monitor/uvm/internal/hvtelf"
	"github.com/uvm-monitor/uvm/internal/testutil"
)

func TestVersion(t *testing.T) {
	want := "uvm " + version + " (" + runtime.Version() + ", hvt ABI version 2)\n"
	for _, args := range [][]string{{"version"}, {"--version"}} {
		wantQuiet(t, uvm(t, args...), 0, want)
	}
}

// TestHelp lists every command, and for each its usage and all its flags.
func TestHelp(t *testing.T) {
	for _, word := range []string{"help", "-h", "--help"} {
		got := uvm(t, word)
		if got.status != 0 || got.stderr != "" {
			t.Errorf("uvm %s = %+v; want status 0 and nothing on stderr", word, got)
		}
		for _, c := range commands() {
			if !strings.Contains(got.stdout, "\n  "+c.name+" ") || !strings.Contains(got.stdout, c.help) {
				t.Errorf("uvm %s = %q; want the command %s with its help", word, got.stdout, c.name)
			}
		}
	}
	for _, c := range commands() {
		if c.name == "rootfs" || c.name == "boot-report" || c.name == "top" {
			continue // another program's help, see TestRootfs
		}
		for _, word := range []string{"--help", "-h"} {
			got := uvm(t, c.name, word)
			if got.status != 0 || got.stderr != "" || !strings.HasPrefix(got.stdout, "Usage: uvm "+c.name+" "+c.usage+"\n\n") {
				t.Errorf("uvm %s %s = %+v; want status 0 and its usage on stdout", c.name, word, got)
			}
			for _, flag := range commandFlags(c.name) {
				if flag != "--help" && !regexp.MustCompile(`\s`+flag+`\s.*\w`).MatchString(got.stdout) {
					t.Errorf("uvm %s %s = %q; want the flag %s with its help", c.name, word, got.stdout, flag)
				}
			}
		}
	}
	// The help of a command wins wherever it stands, but not over the guest.
	if got := uvm(t, "run", "k", "-m", "2", "--help"); got.status != 0 || !strings.HasPrefix(got.stdout, "Usage: uvm run") {
		t.Errorf("uvm run k -m 2 --help = %+v; want the usage", got)
	}
	wantLine(t, uvm(t, "run", "/missing", "--", "--help"), exitKernel, "/missing")
}

// TestCommandFlags holds the list that completion uses to the flags that
// commands take.
func TestCommandFlags(t *testing.T) {
	var run []string
	runFlags(new(settings)).VisitAll(func(f *pflag.Flag) { run = append(run, "--"+f.Name) })
	if got := commandFlags("run"); !slices.Equal(got, append(run, "--help")) {
		t.Errorf("commandFlags(run) = %q; want %q and --help", got, run)
	}
	for _, c := range commands() {
		help := uvm(t, c.name, "--help").stdout
		for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[\w-]+)`).FindAllStringSubmatch(help, -1) {
			if !slices.Contains(commandFlags(c.name), m[1]) {
				t.Errorf("commandFlags(%s) = %q; want it to have %s", c.name, commandFlags(c.name), m[1])
			}
		}
	}
}

func TestInspect(t *testing.T) {
	path := (&guest{data: make([]byte, 0x100), devices: netDisk}).halt(0).file(t)
	wantQuiet(t, uvm(t, "inspect", path), 0, strings.TrimPrefix(`
kind      hvt (Solo5 ABI version 2)
entry     0x100000
memory    ends at 0x111000, so --memory 2M at the very least
device 1  net "service"
device 2  block "storage"
segment   0x100000 r-x 10 bytes in memory, 10 from the file
segment   0x110000 rw- 272 bytes in memory, 272 from the file
`, "\n"))
	wantQuiet(t, uvm(t, "inspect", "--json", path), 0, `{
  "path": "`+path+`",
  "kind": "hvt",
  "abi_version": 2,
  "entry": "0x100000",
  "end": "0x111000",
  "minimum_memory": "2M",
  "devices": [
    {
      "handle": 1,
      "type": "net",
      "name": "service"
    },
    {
      "handle": 2,
      "type": "block",
      "name": "storage"
    }
  ],
  "segments": [
    {
      "address": "0x100000",
      "file_bytes": 10,
      "memory_bytes": 10,
      "permissions": "r-x"
    },
    {
      "address": "0x110000",
      "file_bytes": 272,
      "memory_bytes": 272,
      "permissions": "rw-"
    }
  ]
}
`)
	if got := uvm(t, "inspect", withDevices(t, nil)); got.status != 0 || !strings.Contains(got.stdout, "\ndevices  none\n") {
		t.Errorf("uvm inspect = %+v; want no devices", got)
	}
	wantLine(t, uvm(t, "inspect", "/missing"), exitKernel, "/missing", "no such file")
	wantLine(t, uvm(t, "inspect", "--json", broken(t, elfClass, 1)), exitKernel, "64-bit")
}

// TestInspectProblem describes a file that would not load.
func TestInspectProblem(t *testing.T) {
	const firstFlags = 64 + 4 // p_flags of the first program header
	path := broken(t, firstFlags, 7)
	got := uvm(t, "inspect", path)
	if got.status != 0 || got.stderr != "" || !regexp.MustCompile(`(?m)^problem +.*writable.*$`).MatchString(got.stdout) || !strings.Contains(got.stdout, "rwx") {
		t.Errorf("uvm inspect = %+v; want the problem with a segment rwx", got)
	}
	got = uvm(t, "inspect", path, "--json")
	var in struct{ Problem, Entry string }
	if err := json.Unmarshal([]byte(got.stdout), &in); err != nil || in.Problem == "" || in.Entry != hexAddr(hvtelf.CodeAddr).String() {
		t.Errorf("uvm inspect --json = %+v: %+v, %v; want the problem", got, in, err)
	}
	wantLine(t, uvm(t, "run", path), exitKernel, in.Problem)
}

func TestDoctor(t *testing.T) {
	testutil.RequireKVM(t)
	text := uvm(t, "doctor")
	if text.status != 0 || text.stderr != "" {
		t.Errorf("uvm doctor = %+v; want status 0 where the tests of KVM run", text)
	}
	lines := regexp.MustCompile(`^((ok|note|fail) +[^:\n]+: .+\n( +to mend it: .+\n)?)+$`)
	if !lines.MatchString(text.stdout) {
		t.Errorf("uvm doctor = %q; want it to match %v", text.stdout, lines)
	}
	got := uvm(t, "doctor", "--json")
	var findings []finding
	d := json.NewDecoder(strings.NewReader(got.stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(&findings); err != nil || got.status != 0 || got.stderr != "" {
		t.Fatalf("uvm doctor --json = %+v, %v; want status 0 and JSON", got, err)
	}
	// What doctor says of keys is what a guest meets that wants them.
	keys := uvm(t, "run", new(guest).halt(0).file(t), "--seal-exec-only").status == exitOK
	if inLab := os.Getenv("UVM_LAB") == "1"; inLab && !keys {
		t.Errorf("uvm run --seal-exec-only fails in the lab; want it to work")
	}
	// Likewise of Linux: a kernel that only resets.
	pc := uvm(t, "run", writeFile(t, "pc", hvtelf.PC{Code: []byte{0xb0, 0xfe, 0xe6, 0x64}, PVH: 8}.ELF()), "-m", "2M")
	linux := pc.status == exitOK
	if refused := pc.status == exitHost && strings.Contains(pc.stderr, "emulates ring 0"); !linux && (!refused || os.Getenv("UVM_LAB") == "1") {
		t.Errorf("uvm run of a PC kernel = %+v; want status 0, or outside the lab one sentence and status %d", pc, exitHost)
	}
	var names []string
	for _, f := range findings {
		names = append(names, f.Name)
		if f.Name == "protection keys" && (f.State == stateOK) != keys {
			t.Errorf("finding = %+v; uvm run --seal-exec-only works: %t", f, keys)
		}
		if f.Name == "Linux" && (f.State == stateOK) != linux {
			t.Errorf("finding = %+v; uvm run of a PC kernel works: %t", f, linux)
		}
		if f.State != stateOK && f.State != stateNote || f.Detail == "" || f.State == stateNote && f.Remedy == "" {
			t.Errorf("finding = %+v; want it ok, or a note with a remedy", f)
		}
		if !strings.Contains(text.stdout, f.Name+": ") {
			t.Errorf("uvm doctor = %q; want it to tell of %q as --json does", text.stdout, f.Name)
		}
	}
	if want := []string{"KVM device", "KVM capabilities", "TSC", "ring sealed", "protection keys", "ring 0", "Linux", "TUN/TAP"}; !slices.Equal(names, want) {
		t.Errorf("findings = %q; want %q", names, want)
	}
}
