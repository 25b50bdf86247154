package lab

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/uvm-monitor/uvm/internal/appscan"
	"github.com/uvm-monitor/uvm/internal/rootfs"
)

// suggestCase is a server in an image, with what a client does to it in bash.
type suggestCase struct {
	name   string
	port   string
	client string
	answer string
	start  []string
	files  []tar.Header // besides the package's; content in Linkname
	unused []string     // options that its code asks for and that no run like this uses
}

var suggestCases = []suggestCase{
	{
		name: "redis", port: "6379", start: []string{"redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/data", "--appendonly", "yes"},
		client: `say 'PING\r\nSET key value\r\nINCRBY n 41\r\nINCR n\r\nGET key\r\nBGSAVE\r\nINFO memory\r\nQUIT\r\n'`, answer: ":42\r\n$5\r\nvalue\r\n",
		files: []tar.Header{{Name: "data/", Typeflag: tar.TypeDir}}, unused: []string{"POSIX_MQUEUE", "SIGNALFD", "SYSVIPC"},
	},
	{
		name: "nginx", port: "80", start: []string{"nginx", "-c", "/nginx.conf"}, client: `wget -q -O - http://10.0.0.2/hello; wget -q -O - http://10.0.0.2/file`,
		answer: "hello from nginx\nfile", unused: []string{"SYSVIPC"},
		files: []tar.Header{{Name: "srv/file", Linkname: "file"}, {Name: "var/log/nginx/", Typeflag: tar.TypeDir}, {Name: "var/lib/nginx/body/", Typeflag: tar.TypeDir},
			{Name: "nginx.conf", Linkname: "daemon off; user www-data; pid /run/nginx.pid; error_log stderr;\nevents {}\n" +
				"http { access_log off; server { listen 80; root /srv; location = /hello { return 200 \"hello from nginx\\n\"; } } }\n"}},
	},
}

// withLayer adds a layer of a folder and of files, whose content is in Linkname.
func withLayer(img v1.Image, tree fs.FS, files ...tar.Header) (v1.Image, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if tree != nil {
		if err := w.AddFS(tree); err != nil {
			return nil, err
		}
	}
	for _, h := range files {
		content := h.Linkname
		h.Linkname, h.Size, h.Mode = "", int64(len(content)), 0o755
		if err := w.WriteHeader(&h); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layer)
}

// image writes what docker save would write of the application.
func (c *suggestCase) image(file string) error {
	tree, err := AppTree(c.name)
	if err != nil {
		return err
	}
	img, err := withLayer(empty.Image, os.DirFS(tree), c.files...)
	if err != nil {
		return err
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture, cfg.Config = "linux", "amd64", v1.Config{Entrypoint: c.start[:1], Cmd: c.start[1:]}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		return err
	}
	tag, err := name.NewTag(c.name + ":1")
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, img)
}

// suggestScript runs a server of which options are wanted, asks it by the network, and ends the run by Ctrl-C.
const suggestScript = `ip netns del suggest 2>/dev/null; ip netns add suggest
ip netns exec suggest bash -ec '
ip tuntap add tap0 mode tap
ip addr add 10.0.0.1/24 dev tap0
ip link set tap0 up
uvm lupine suggest --run --for 3m --memory 192M --net tap0,ip=10.0.0.2/24 $APP.tar >fragment 2>log &
run=$!
say() { exec 3<>/dev/tcp/10.0.0.2/$PORT; printf "$1" >&3; cat <&3; exec 3>&-; }
until timeout 2 bash -c "exec 3<>/dev/tcp/10.0.0.2/$PORT" 2>/dev/null; do kill -0 $run || { cat log; exit 1; }; sleep 0.5; done
eval "$CLIENT" >answer
sleep 2
kill -INT $run
wait $run || { cat log; exit 1; }
cat fragment
cat answer log >&2
'
status=$?
ip netns del suggest
exit $status`

// optionLine is an option that a fragment asks for.
var optionLine = regexp.MustCompile(`(?m)^CONFIG_(\w+)=y$`)

func optionsIn(text string) (all []string) {
	for _, m := range optionLine.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// look is what looking at the image says.
func (c *suggestCase) look(t *testing.T, image string) string {
	var b strings.Builder
	view, err := rootfs.Look(t.Context(), rootfs.Options{Source: image})
	if err == nil {
		defer view.Close()
		var uses *appscan.Uses
		if uses, err = (&appscan.Root{FS: view.FS, Path: view.Start.SearchPath()}).Scan(c.start[0]); err == nil {
			err = uses.Fragment(&b)
		}
	}
	if err != nil {
		t.Error(err)
	}
	return b.String()
}

// check compares what looking and the run say with the fragment that the application runs with.
func (c *suggestCase) check(t *testing.T, r *Result, looked string) {
	joined := r.Stdout
	if r.Status != 0 || !strings.Contains(r.Stderr, c.answer) {
		t.Errorf("status %d; want 0 and the answer %q\nstdout: %s\nstderr: %s", r.Status, c.answer, r.Stdout, r.Stderr)
		return
	}
	own, err := os.ReadFile(filepath.Join("..", "..", "guests", "lupine", c.name+".config"))
	if err != nil {
		t.Error(err)
	}
	used, _, _ := strings.Cut(joined, "# The program's own code asks for these")
	first, _, _ := strings.Cut(looked, "# Only its libraries ask")
	t.Logf("%s: fragment %d options, looking %d (%d by the program itself), run %d, joined %d", c.name,
		len(optionsIn(string(own))), len(optionsIn(looked)), len(optionsIn(first)), len(optionsIn(used)), len(optionsIn(joined)))
	for _, o := range optionsIn(string(own)) {
		if !slices.Contains(optionsIn(joined), o) {
			t.Errorf("joined has no %s, which the application's fragment has", o)
		}
	}
	for _, o := range c.unused {
		if !slices.Contains(optionsIn(looked), o) || slices.Contains(optionsIn(joined), o) {
			t.Errorf("%s: want it by looking, and not any more after the run", o)
		}
	}
	t.Logf("%s\n%s", joined, r.Stderr)
}

// TestSuggest runs images under lupine-general and joins what they did with what their code can do.
func TestSuggest(t *testing.T) {
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
		img, err = withLayer(img, nil, tar.Header{Name: "bin/uvm-mark", Linkname: string(p.mark)})
	}
	if err == nil {
		err = tarball.WriteToFile(path("app.tar"), name.MustParseReference("app:1"), img)
	}
	if err == nil {
		err = goBuild(root, path("uvm-lupine"), "./cmd/uvm-lupine")
	}
	if err == nil {
		err = makeGuest(root, tmp, "uvm-init")
	}
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"/vm/app.tar": path("app.tar"), srcDir + "/bin/uvm-lupine": path("uvm-lupine"), srcDir + "/bin/guests/uvm-init": path("uvm-init"),
	}
	for _, k := range []string{"lupine-base", "lupine-general"} {
		if files[srcDir+"/bin/guests/"+k+".vmlinux"], err = LinuxKernel(k); err != nil {
			t.Fatal(err)
		}
	}
	var jobs []Job
	job := func(name string, status int, stdout, stderr, script string) {
		jobs = append(jobs, Job{Name: name, Dir: "/vm", Argv: []string{"bash", "-c", script}, Bound: 2 * time.Minute, Again: true, Check: func(t *testing.T, r *Result) {
			if r.Status != status || !regexp.MustCompile(stdout).MatchString(r.Stdout) || !regexp.MustCompile(stderr).MatchString(r.Stderr) {
				t.Errorf("status %d, stdout %q, stderr %q; want status %d, %s and %s", r.Status, r.Stdout, r.Stderr, status, stdout, stderr)
			}
			t.Logf("%.1f s in the lab\n%s", r.Elapsed.Seconds(), r.Stdout)
		}})
	}
	for _, c := range suggestCases {
		files["/vm/"+c.name+".tar"] = path(c.name + ".tar")
		if err := c.image(path(c.name + ".tar")); err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, Job{Name: c.name, Dir: "/vm", Argv: []string{"bash", "-c", suggestScript}, Bound: 4 * time.Minute, Again: true, Check: func(t *testing.T, r *Result) { c.check(t, r, c.look(t, path(c.name+".tar"))) },
			Env: []string{"APP=" + c.name, "PORT=" + c.port, "CLIENT=" + c.client}})
	}
	const suggest = "uvm lupine suggest --run "
	job("script", 0, `(?s)# The run: lupine-general, \d+ s, until the application ended; the application's status was 7\.\n.*`+
		`# seen in use: set\w*id.*\nCONFIG_MULTIUSER=y\n.*# seen in use: /proc/.*\nCONFIG_PROC_FS=y\n.*opt/app is a script for /bin/sh`,
		`(?s)the guest starts; Ctrl-C ends the application\n.*args: 2 of the image\n.*lo: 1\n`, suggest+"app.tar")
	job("folder", 0, `(?s)status was 3\..*the run did not come there.*\nCONFIG_SYSVIPC=y\n`, "in the folder", "mkdir -p dir/bin; cp /bin/busybox dir/bin/sh; "+suggest+`dir -- sh -c 'echo in the folder; exit 3'`)
	// What is looked at here makes no system call of these.
	const tiny = " app.tar /bin/uvm-mark"
	only := ".*# Seen in use, and not found in the code: .*\nCONFIG_MULTIUSER=y\n"
	job("for", 0, `(?s)until --for was over; the application's status was 130\.`+only, "lo: 1", suggest+"--for 20s --env LAST='exec sleep 1000'"+tiny)
	job("deaf", 0, `(?s)until --for was over\.\n.*# - its end`, "deaf", suggest+`--for 15s --env LAST='trap "" INT; echo deaf; while true; do sleep 1; done'`+tiny)
	job("killed", 0, `(?s)until uvm was ended by signal 9\.\n`+only, "lo: 1", suggest+`--env LAST='exec sleep 1000'`+tiny+` 2>err &
until grep -q 'lo: 1' err; do sleep 0.5; done; sleep 2; kill -9 $(pidof uvm); wait $!; status=$?; cat err >&2; exit $status`)
	job("no such user", 1, "^$", `(?s)needs CONFIG_MULTIUSER\n.*the guest could not start the application \(status 126\)`, suggest+"--kernel lupine-base"+tiny)
	jobs = append(jobs, Job{Name: "left behind", Argv: []string{"sh", "-c", `! ls -A /tmp | grep -E "^uvm-(look|run)"`}})
	Run(t, Options{Memory: 3 << 30, Files: files, Tools: []string{"bash", "ip", "mke2fs", "debugfs", "e2fsck"}}, jobs...)
}
