package lab

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// app is what the image runs: it says what it was given, and leaves an orphan that ends before it
// and one that would never end.
const app = `#!/bin/sh
echo "args: $# $*"
echo "greeting: $GREETING, extra: $EXTRA"
echo "in $(pwd) as $(id -u):$(id -g) $(id -G), $HOME, $(hostname)"
(sleep 0.1 &)
(sleep 1000 &)
sleep 0.5
echo "zombies: $(ps -o stat | grep -c '^Z')"
echo "gone: $(ls /gone 2>/dev/null)"
echo "lo: $(ping -c 1 127.0.0.1 | grep -c '1 packets received')"
exec sh -c "$LAST"
`

// containerImage is an image with two layers: busybox, and app on top, which hides a file of the first.
func containerImage(p *guestPrograms) (v1.Image, error) {
	busybox, err := os.ReadFile(p.busybox)
	if err != nil {
		return nil, err
	}
	img := empty.Image
	for _, layer := range [][]tar.Header{
		{{Name: "bin/busybox", Linkname: string(busybox)}, {Name: "etc/group", Linkname: "web:x:34:\nlog:x:4:web\n"}, {Name: "gone", Linkname: "x"},
			{Name: "etc/passwd", Linkname: "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n"}, {Name: "applets"}},
		{{Name: "opt/app", Linkname: app}, {Name: ".wh.gone"}},
	} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range layer {
			content := h.Linkname // of a file here
			h.Mode, h.Size, h.Linkname, h.ModTime = 0o4755, int64(len(content)), "", time.Unix(1e9, 0)
			if err := w.WriteHeader(&h); err != nil {
				return nil, err
			}
			if _, err := io.WriteString(w, content); err != nil {
				return nil, err
			}
			for i := 0; h.Name == "applets" && i < len(p.applets); i++ {
				if p.applets[i] == "busybox" {
					continue
				}
				if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + p.applets[i], Linkname: "/bin/busybox"}); err != nil {
					return nil, err
				}
			}
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, l); err != nil {
			return nil, err
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	cfg.Config = v1.Config{
		Entrypoint: []string{"app"}, Cmd: []string{"of the", "image"}, WorkingDir: "/srv", User: "web", Hostname: "box",
		Env:          []string{"PATH=/opt:/bin", "GREETING=hello world", "LAST=exit 7"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}
	return mutate.ConfigFile(img, cfg)
}

// appSays is all that uvm's stdout has of app, byte by byte.
const appSays = `in /srv as 33:34 34 4, /home/web, box
zombies: 0
gone: 
lo: 1
`

// TestContainers boots root file systems that uvm rootfs has made, and container images.
func TestContainers(t *testing.T) {
	t.Parallel()
	Require(t)
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	p, err := forGuests()
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	path := func(name string) string { return filepath.Join(tmp, name) }
	img, err := containerImage(p)
	if err == nil {
		err = tarball.WriteToFile(path("app.tar"), name.MustParseReference("app:1"), img)
	}
	if err == nil {
		err = goBuild(root, tmp, "./cmd/uvm-image", "./cmd/uvm-net")
	}
	if err == nil {
		err = makeGuest(root, tmp, "uvm-init")
	}
	// A directory with busybox, made into an image out here.
	if err == nil {
		err = os.MkdirAll(path("dir/bin"), 0o755)
	}
	if err == nil {
		err = os.Symlink("busybox", path("dir/bin/sh"))
	}
	if err == nil {
		_, err = run("/", "cp", p.busybox, path("dir/bin/busybox"))
	}
	if err == nil {
		_, err = run("/", path("uvm-image"), "rootfs", path("dir"), "-o", path("dir.ext4"), "--init", path("uvm-init"), "--owner", "0:0",
			"--env", "WORD=it is", "--entrypoint", "sh", "--", "-c", "busybox mkdir -p /new && echo $WORD >>/new/file && busybox cat /new/file; exit $(busybox wc -l </new/file)")
	}
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"/vm/app.tar": path("app.tar"), "/vm/dir.ext4": path("dir.ext4"),
		srcDir + "/bin/uvm-image": path("uvm-image"), srcDir + "/bin/uvm-net": path("uvm-net"), srcDir + "/bin/guests/uvm-init": path("uvm-init"),
	}
	for _, k := range []string{"lupine-base", "lupine-general"} {
		if files[srcDir+"/bin/guests/"+k+".vmlinux"], err = LinuxKernel(k); err != nil {
			t.Fatal(err)
		}
	}
	job := func(name string, status int, want, script string) Job {
		return Job{Name: name, Dir: "/vm", Argv: []string{"bash", "-c", script}, Bound: 90 * time.Second, Check: func(t *testing.T, r *Result) {
			if r.Status != status || !regexp.MustCompile(want).MatchString(r.Stdout) {
				t.Errorf("status %d, stdout %q, stderr %q; want status %d and %s", r.Status, r.Stdout, r.Stderr, status, want)
			}
			t.Logf("%.1f s in the lab", r.Elapsed.Seconds())
		}}
	}
	exact := func(s string) string { return "^" + regexp.QuoteMeta(s) + "$" }
	const image = "uvm run --image app.tar --kernel lupine-general "
	Run(t, Options{Memory: 2 << 30, Files: files, Tools: []string{"bash", "ip", "mke2fs", "debugfs", "e2fsck"}},
		job("directory", 0, `^it is\nstatus 1\nit is\nit is\nstatus 2\n`,
			`for i in 1 2; do uvm run /src/bin/guests/lupine-base.vmlinux --disk dir.ext4 --cmdline 'init=/.uvm/init quiet'; echo status $?; done; e2fsck -fn dir.ext4 >&2`),
		job("image", 7, exact("args: 2 of the image\ngreeting: hello world, extra: \n"+appSays), image),
		job("arguments", 200, exact("args: 1 a  b\ngreeting: hi, extra: \"x\"\n"+appSays),
			image+`--env 'EXTRA="x"' --env GREETING=hi --env 'LAST=exit 200' -- 'a  b'`),
		job("signal", 128+9, "lo: 1\n$", image+`--env 'LAST=kill -9 $$'`),
		job("no such program", 127, "^$", `uvm run --image app.tar --env PATH=/none 2>&1 | grep -v 'there is no such program'; exit ${PIPESTATUS[0]}`),
		job("cache", 0, `^1 image\n0 others\n$`, `cd ~/.cache/uvm/images; echo $(ls *.ext4 | wc -l) image; echo $(ls -A | grep -vcE '^[0-9a-f]{64}\.(ext4|lock)$') others`),
		job("network", 0, `(?s) 0% packet loss.*from the port\n`, `ip netns add lab
inside() { ip netns exec lab "$@"; }
inside ip tuntap add tap0 mode tap
inside ip addr add 10.0.0.1/24 dev tap0
inside ip link set tap0 up
inside uvm run --image app.tar --net tap0,ip=10.0.0.2/24,gw=10.0.0.1 --env 'LAST=ping -c 2 10.0.0.1; echo from the port | nc -l -p 7000; exit 0' &
while kill -0 $! && ! inside nc -w 5 10.0.0.2 7000 </dev/null; do sleep 0.2; done
wait $!; s=$?
ip netns del lab
exit $s`),
		// A port that the image exposes is reached at the address that uvm has found.
		job("network of uvm's own", 0, `^from the guest\nguest: 10\.192\.0\.2, ports 8080/tcp\nleft: 0\n$`, `ip netns add lab
inside() { ip netns exec lab "$@"; }
inside ip link set lo up
inside uvm run --image app.tar --net auto --timeout 60s --env 'LAST=echo from the guest | busybox nc -l -p 8080; exit 0' >out 2>err & vm=$!
while kill -0 $vm 2>/dev/null; do
	got=$(inside timeout 5 bash -c 'read -r line </dev/tcp/10.192.0.2/8080 && echo $line' 2>/dev/null) && break
	sleep 0.2
done
wait $vm; s=$?
echo "$got"; cat err; cat out >&2
echo left: $(inside ip -o link | grep -c uvm)
ip netns del lab
exit $s`),
	)
}
