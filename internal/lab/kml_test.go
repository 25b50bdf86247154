//go:build measure

package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// kmlInitramfs makes a guest with the programs of docs/kml.md. With kml=/kml/,
// those in /kml run in ring 0.
func kmlInitramfs(t *testing.T, script string) string {
	t.Helper()
	tree := t.TempDir()
	bare := []string{"-nostdlib", "-ffreestanding", "-fno-stack-protector"}
	for _, p := range []struct {
		name, source string
		flags        []string
	}{
		{"bin/kml", "kml.c", nil},
		{"kml/kml", "kml.c", nil},
		{"bin/latency", "latency.c", bare},
		{"kml/latency", "latency.c", bare},
		{"kml/jump", "latency.c", append(bare, "-DJUMP")},
	} {
		file := filepath.Join(tree, p.name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		args := append([]string{"-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", file, "testdata/" + p.source}, p.flags...)
		if out, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	initrd := filepath.Join(tree, "initrd")
	if err := (&LinuxGuest{Tree: tree, Init: script + "\nuvm-mark --poweroff\n"}).Initramfs(initrd); err != nil {
		t.Fatal(err)
	}
	return initrd
}

// busyScript is work for a shell; what it prints is the same everywhere.
const busyScript = `i=0
while [ $i -lt 30 ]; do
	seq $i 500 | sort -r | gzip | gunzip | sha256sum
	i=$((i + 1))
done
trap 'echo trapped' USR1
sh -c 'sleep 0.2; kill -USR1 $PPID' &
wait $!
wait
{ sh -c 'kill -SEGV $$'; echo status $?; } 2>/dev/null
`

// TestKML makes what docs/kml.md tells.
func TestKML(t *testing.T) {
	t.Run("checks", checkKML)
	t.Run("latency", measureKML)
}

// checkKML runs what processes do in ring 0, in ring 3 beside such processes,
// and a user land that is in ring 0 as a whole.
func checkKML(t *testing.T) {
	busybox, err := program("busybox", "busybox-static")
	if err != nil {
		t.Fatal(err)
	}
	busy, err := exec.Command(busybox, "sh", "-c", busyScript).Output()
	if err != nil || !strings.Contains(string(busy), "trapped\nstatus 139\n") {
		t.Fatalf("%v\n%s", err, busy)
	}
	const good = "all good\n"
	cases := []struct{ name, kernel, cmdline, init, want string }{
		{"lupine-base", "lupine-base", "kml=/kml/", "/kml/kml 3 && /bin/kml 3 && echo both", "both\n"},
		{"switched off", "lupine-base+kml", "", "/kml/kml 3", good},
		{"ring 0", "lupine-base+kml", "kml=/kml/", "/kml/kml 0", good},
		{"ring 3 beside it", "lupine-base+kml", "kml=/kml/", "/bin/kml 3", good},
		{"user land", "lupine-base+kml", "kml=/", "/bin/kml 0 again && echo in ring 0\n" + busyScript, "in ring 0\n" + string(busy)},
	}
	files := map[string]string{}
	withKernels(t, files, []string{"lupine-base", "lupine-base+kml"})
	var jobs []Job
	for i, c := range cases {
		initrd := fmt.Sprint("initrd", i)
		files["/vm/"+initrd] = kmlInitramfs(t, c.init)
		jobs = append(jobs, Job{
			Name: c.name, Dir: "/vm", Bound: 2 * time.Minute,
			Argv: []string{"uvm", "run", c.kernel, "-m", "256M", "--initrd", initrd, "--cmdline", "quiet " + c.cmdline},
			Check: func(t *testing.T, r *Result) {
				if r.Status != 0 || !strings.Contains(strings.ReplaceAll(r.Stdout, "\r", ""), c.want) {
					t.Fatalf("status %d, no %q in\n%s%s", r.Status, c.want, r.Stdout, r.Stderr)
				}
			},
		})
	}
	Run(t, Options{Memory: 3 << 30, Files: files}, jobs...)
}

// measureKML measures, in instructions, system calls from ring 3 and from ring
// 0, there by SYSCALL and by a jump.
func measureKML(t *testing.T) {
	kernels := []string{"lupine-base", "lupine-base+kml"}
	files := map[string]string{"/vm/initrd": kmlInitramfs(t, "for p in /bin/latency /kml/latency /kml/jump; do echo @ $p; $p; done")}
	withKernels(t, files, kernels)
	var jobs []Job
	for _, k := range kernels {
		jobs = append(jobs, Job{
			Name: k, Dir: "/vm", Bound: 2 * time.Minute,
			Argv: []string{"uvm", "run", k, "-m", "256M", "--initrd", "initrd", "--cmdline", "quiet kml=/kml/"},
			Check: func(t *testing.T, r *Result) {
				for i, part := range strings.Split(strings.ReplaceAll(r.Stdout, "\r", ""), "@ ")[1:] {
					var program string
					var null, read, write float64
					if _, err := fmt.Sscanf(part, "%s\nnull %f\nread %f\nwrite %f\n", &program, &null, &read, &write); err == nil {
						t.Logf("%-16s %-12s null %6.0f ns, read %6.0f ns, write %6.0f ns", k, program, null/1000, read/1000, write/1000)
					} else if i < 2 || k != kernels[0] { // lupine-base has no place to jump to
						t.Fatalf("%v in\n%s", err, r.Stdout)
					}
				}
			},
		})
	}
	Run(t, Options{Memory: 2 << 30, ICount: true, Files: files}, jobs...)
}
