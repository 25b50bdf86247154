package lab

import (
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// pythonModules are those without which gdb's Python does not start, and with it gdb.
var pythonModules = []string{"encodings", "codecs.py", "io.py", "abc.py", "_weakrefset.py", "site.py", "os.py", "stat.py", "posixpath.py", "genericpath.py", "_collections_abc.py", "_sitebuiltins.py"}

// gdbPrologue is the begin of the scripts: gdb FILE runs commands from stdin.
const gdbPrologue = `until_ticks() { # N FILE: the guest has counted to N
	for _ in {1..200}; do
		[ $(grep -c tick $2) -ge $1 ] && return
		sleep 0.2
	done
	echo no $1 ticks in $2 >&2
	cat $2 >&2
	exit 1
}
run_gdb() {
	cat >/tmp/commands
	timeout 60 gdb -nx -batch -iex 'set auto-load no' -ex 'set pagination off' -ex 'set confirm off' -ex 'set width 0' -x /tmp/commands "$@" 2>&1
}
`

// gdbCases are what gdb does where hardware virtualises.
var gdbCases = []struct {
	name, script string
	want         []string // patterns of stdout, one behind the other
}{
	{
		// Attach, symbols, registers, memory, step, interrupt, detach; and the guest goes on.
		name: "linux", script: `uvm run kernel -m 256M --initrd gdb.cpio --gdb unix:/tmp/gdb.sock >out 2>err &
guest=$!
until_ticks 1 out
run_gdb kernel <<'end'
target remote /tmp/gdb.sock
info threads
monitor points
info registers rip cr3
x/s (char *)&linux_banner
print/x *(long *)&linux_banner
set var $saved = $r15
set var $r15 = 0x1234
print/x $r15
set var $r15 = $saved
stepi
stepi
stepi
info symbol $pc
break panic
shell (sleep 4; kill -INT $PPID) &
continue
backtrace 3
print $pc > 0
delete
shell (sleep 4; kill -INT $PPID) &
continue
info registers rip
monitor vcpus
x/2x 0xffffc00000000000
detach
end
until_ticks $(($(grep -c tick out) + 2)) out
echo more ticks
kill $guest
wait $guest || echo ended with $?
cat err`,
		want: []string{
			`vCPU 0, ring`, `single steps true`, `rip +0x`, `cr3 +0x`, `"Linux version 6\.1`, `= 0x2078756e694c|= 0x65762078756e694c`, `= 0x1234`, `in section|No symbol matches`,
			`rip +0x`, `vCPU 0: rip 0x`, `Cannot access memory at address 0xffffc00000000000`, `detached`, `more ticks`, `ended with 143`,
		},
	},
	{
		name: "core", script: `uvm run kernel -m 256M --initrd gdb.cpio --name linux >out &
guest=$!
until_ticks 1 out
core=$(uvm dump linux --core /tmp)
ls -ls $core
run_gdb kernel $core <<'end'
info threads
backtrace 4
x/s (char *)&linux_banner
info registers rip
end
uvm stop linux
wait $guest || true`,
		want: []string{`core\.kernel\.`, `LWP 1`, `#0 +0x`, `"Linux version 6\.1`, `rip +0x`},
	},
	{
		name: "two CPUs", script: `uvm run general -m 256M -c 2 --initrd gdb.cpio --gdb unix:/tmp/gdb2.sock >out &
guest=$!
until_ticks 1 out
run_gdb <<'end'
target remote /tmp/gdb2.sock
info threads
thread apply all print/x $cr3 != 0
thread 2
stepi
info threads
shell (sleep 4; kill -INT $PPID) &
continue
detach
end
until_ticks $(($(grep -c tick out) + 2)) out
echo more ticks
kill $guest
wait $guest || true`,
		want: []string{`vCPU 0, ring`, `vCPU 1, ring`, `= 0x1`, `= 0x1`, `SIGINT`, `more ticks`},
	},
	{
		// A sealed guest needs nothing of KVM's debugging.
		name: "sealed", script: `run_gdb /src/bin/guests/steps.hvt <<'end'
target remote | uvm run /src/bin/guests/steps.hvt --gdb stdio --gdb-wait
break add
continue
backtrace 1
print/x $xmm3.uint128
delete
watch *(long *)&total
continue
continue
delete
break privileged
continue
stepi
stepi
stepi
stepi
stepi
stepi
stepi
stepi
delete
rwatch *((char *)&room + 40)
continue
delete
continue
end
run_gdb /src/bin/guests/faults.hvt <<'end'
target remote | uvm run /src/bin/guests/faults.hvt --gdb stdio --gdb-wait -- write-text
continue
backtrace 1
continue
end`,
		want: []string{`Breakpoint 1, 0x[0-9a-f]+ in add`, `0x55556666777788881111222233334444`, `Old value = 1\nNew value = 3`, `Old value = 3\nNew value = 6`, `privileged`,
			`read watchpoint`, `exited with code 03`, `SIGSEGV`, `write_text`, `terminated with signal SIGSEGV`},
	},
}

// TestGDB has the real gdb debug Linux and sealed guests, in the lab.
func TestGDB(t *testing.T) {
	t.Parallel()
	Require(t)
	files := map[string]string{}
	for name, kernel := range map[string]string{"/vm/kernel": "lupine-base+symbols", "/vm/general": "lupine-general"} {
		file, err := LinuxKernel(kernel)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = file
	}
	g := LinuxGuest{Init: "i=0\nwhile :; do i=$((i + 1)); echo tick $i; sleep 0.2; done\n"}
	files["/vm/gdb.cpio"] = filepath.Join(t.TempDir(), "gdb.cpio")
	if err := g.Initramfs(files["/vm/gdb.cpio"]); err != nil {
		t.Fatal(err)
	}
	python, err := filepath.Glob("/usr/lib/python3.*")
	if err != nil || len(python) == 0 {
		t.Fatalf("no /usr/lib/python3.*, which gdb needs: %v; apt-get install gdb", err)
	}
	for _, dir := range python {
		for _, m := range pythonModules {
			if found, _ := filepath.Glob(filepath.Join(dir, m)); len(found) == 1 {
				files[found[0]] = found[0]
			}
		}
	}
	var jobs []Job
	for _, c := range gdbCases {
		jobs = append(jobs, Job{
			Name: c.name, Dir: "/vm", Argv: []string{"bash", "-ec", gdbPrologue + c.script}, Bound: 3 * time.Minute,
			Check: func(t *testing.T, r *Result) {
				rest := r.Stdout
				for _, p := range c.want {
					at := regexp.MustCompile(p).FindStringIndex(rest)
					if at == nil {
						t.Errorf("status %d; no %q where it should be\nstdout: %s\nstderr: %s", r.Status, p, r.Stdout, r.Stderr)
						return
					}
					rest = rest[at[1]:]
				}
				t.Logf("%.1f s in the lab\n%s", r.Elapsed.Seconds(), r.Stdout)
			},
		})
	}
	jobs = append(jobs, Job{Package: "internal/kvmprobe", Skips: map[string]string{"TestHeader": "it needs a compiler"}})
	Run(t, Options{Memory: 3 << 30, Files: files, Tools: []string{"bash", "gdb"}}, jobs...)
}
