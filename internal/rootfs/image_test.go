package rootfs

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// makeImage builds an image of the layers; change changes its configuration.
func makeImage(t testing.TB, change func(*v1.ConfigFile), layers ...[]e) v1.Image {
	t.Helper()
	img := empty.Image
	for _, l := range layers {
		b := makeTar(t, l...)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	if change != nil {
		change(cfg)
	}
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	return img
}

func dockerSave(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	refs := map[name.Reference]v1.Image{}
	for tag, img := range images {
		ref, err := name.NewTag(tag)
		if err != nil {
			t.Fatal(err)
		}
		refs[ref] = img
	}
	if err := tarball.MultiRefWriteToFile(file, refs); err != nil {
		t.Fatal(err)
	}
	return file
}

// ociLayout writes a layout; names go into annotations.
func ociLayout(t testing.TB, images map[string]v1.Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	path, err := layout.Write(dir, empty.Index)
	for tag, img := range images {
		if err == nil {
			err = path.AppendImage(img, layout.WithAnnotations(map[string]string{refName: tag}))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// pack makes a tar file of a directory.
func pack(t testing.TB, dir string) string {
	t.Helper()
	var entries []e
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(file)
		entries = append(entries, e{name: "./" + strings.TrimPrefix(file, dir+"/"), to: string(b)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return tarFile(t, entries...)
}

func appConfig(cfg *v1.ConfigFile) {
	cfg.Config = v1.Config{
		Entrypoint: []string{"app"}, Cmd: []string{"--serve", "a b"}, Env: []string{"PATH=/opt", "GREETING=hello world"}, WorkingDir: "/srv/data", User: "web",
		ExposedPorts: map[string]struct{}{"80": {}},
	}
}

var appLayers = [][]e{
	{{name: "etc/passwd", to: "root:x:0:0::/root:/bin/sh\nweb:x:33:34:Web:/home/web:/bin/sh\n"}, {name: "etc/group", to: "root:x:0:\nweb:x:34:\nlog:x:4:adm,web\n"},
		{name: "opt/app", to: elfFor(62)}, {name: "gone", to: "x"}},
	{{name: ".wh.gone"}, {link, "opt/second", "opt/app", 0, nil}},
}

// TestImages makes the same file system out of an image in each of its forms.
func TestImages(t *testing.T) {
	img := makeImage(t, appConfig, appLayers...)
	archive := dockerSave(t, map[string]v1.Image{"app:1": img})
	oci := ociLayout(t, map[string]v1.Image{"app:1": img})
	plain, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	other := makeImage(t, nil, []e{{name: "x"}})
	var first []byte
	for _, tt := range []struct {
		name string
		o    Options
	}{
		{"docker", Options{Source: archive}},
		{"docker, packed", Options{Source: write(t, gzipped(t, plain))}},
		{"layout", Options{Source: oci}},
		{"layout in a tar", Options{Source: pack(t, oci)}},
		{"docker, one of two", Options{Source: dockerSave(t, map[string]v1.Image{"app:1": img, "x:1": other}), Tag: "app:1"}},
		{"layout, one of two", Options{Source: ociLayout(t, map[string]v1.Image{"app:1": img, "x:1": other}), Tag: "app:1"}},
	} {
		tt.o.Init = []byte("init")
		file := mustBuild(t, tt.o)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = b
			want := strings.Join([]string{"uvm-start 1", "u33", "g34", "G4", "w/srv/data", "eGREETING=hello world", "eHOME=/home/web", "ePATH=/opt", "aapp", "-", "a--serve", "aa b", ""}, "\x00")
			if got := debugfs(t, file, "cat "+StartPath); got != want {
				t.Errorf("start description = %q; want %q", got, want)
			}
			for request, want := range map[string]string{"cat " + InitPath: "init", "stat " + InitPath: "Mode:  0555", "stat /srv/data": "directory", "stat /opt/second": "Links: 2"} {
				if got := debugfs(t, file, request); !strings.Contains(got, want) {
					t.Errorf("debugfs %s = %q; want %q in it", request, got, want)
				}
			}
			if got := debugfs(t, file, "ls -p /"); strings.Contains(got, "gone") {
				t.Errorf("ls / = %q; want nothing that is whited out", got)
			}
		} else if !bytes.Equal(b, first) {
			t.Errorf("%s: the image differs from that of the first source", tt.name)
		}
	}
	// What the command line says stands in place of the image's.
	file := mustBuild(t, Options{Source: archive, Init: []byte("init"), Start: Start{
		Entrypoint: []string{"/opt/second"}, Env: []string{"GREETING=bye"}, WorkDir: "/", User: "5:log", Hostname: "guest",
	}})
	want := strings.Join([]string{"uvm-start 1", "u5", "g4", "w/", "hguest", "eGREETING=bye", "eHOME=/", "ePATH=/opt", "a/opt/second", "-", ""}, "\x00")
	if got := debugfs(t, file, "cat "+StartPath); got != want {
		t.Errorf("start description = %q; want %q", got, want)
	}
}

func TestBadImages(t *testing.T) {
	good := makeImage(t, appConfig, appLayers...)
	arm := makeImage(t, func(c *v1.ConfigFile) { appConfig(c); c.Architecture = "arm64" }, appLayers...)
	damaged := func(which func(v1.Image) (v1.Hash, error), damage func([]byte) []byte) string {
		dir := ociLayout(t, map[string]v1.Image{"a": good})
		h, err := which(good)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "blobs", "sha256", h.Hex)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if b = damage(b); b == nil {
			err = os.Remove(file)
		} else {
			err = os.WriteFile(file, b, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	layer := func(img v1.Image) (v1.Hash, error) {
		l, err := img.Layers()
		if err != nil {
			return v1.Hash{}, err
		}
		return l[0].Digest()
	}
	space := func(b []byte) []byte { return append(b, ' ') }
	// A layer that is whole, and another one than the configuration says.
	swapped := makeImage(t, func(c *v1.ConfigFile) {
		appConfig(c)
		c.RootFS.DiffIDs[0].Hex = strings.Repeat("0", 64)
	}, appLayers...)
	fewer := makeImage(t, func(c *v1.ConfigFile) { appConfig(c); c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] }, appLayers...)
	oci := func(img v1.Image) string { return ociLayout(t, map[string]v1.Image{"a": img}) }
	docker := func(img v1.Image) string { return dockerSave(t, map[string]v1.Image{"a:1": img}) }
	for _, tt := range []struct {
		name, source string
		o            Options
		want         string
	}{
		{"architecture", docker(arm), Options{}, "linux/arm64; uvm runs linux/amd64"},
		{"architecture in a layout", oci(arm), Options{}, "linux/arm64"},
		{"no entry point", docker(makeImage(t, nil, appLayers...)), Options{}, "no entry point and no command: say one with --entrypoint"},
		{"no layers", oci(makeImage(t, appConfig)), Options{}, "the image has no layers"},
		{"no files", oci(makeImage(t, appConfig, []e{{name: ".wh.x"}})), Options{}, "there are no files in it"},
		{"digest of a layer", oci(swapped), Options{}, "layer 1 of 2: it has the digest sha256:"},
		{"fewer digests than layers", oci(fewer), Options{}, "2 layers, and digests of 1"},
		{"damaged layer", damaged(layer, func(b []byte) []byte { return flip(b, -len(b)/2) }), Options{}, "layer 1 of 2"},
		{"cut layer", damaged(layer, func(b []byte) []byte { return b[:len(b)/2] }), Options{}, "layer 1 of 2"},
		{"missing layer", damaged(layer, func([]byte) []byte { return nil }), Options{}, "no such file"},
		{"damaged configuration", damaged(v1.Image.ConfigName, space), Options{}, "damaged: it has the digest"},
		{"damaged manifest", damaged(v1.Image.Digest, space), Options{}, "damaged: it has the digest"},
		{"huge manifest", damaged(v1.Image.Digest, func([]byte) []byte { return make([]byte, maxJSON+1) }), Options{}, "at most 4 MiB"},
		{"two in an archive", dockerSave(t, map[string]v1.Image{"a:1": good, "b:1": arm}), Options{}, "2 images: choose one with --tag"},
		{"two in a layout", ociLayout(t, map[string]v1.Image{"a": good, "b": makeImage(t, nil, []e{{name: "x"}})}), Options{}, "2 images: choose one with --tag"},
		{"no such tag", oci(good), Options{Tag: "b"}, `called "b"`},
		{"no such tag in an archive", docker(good), Options{Tag: "b:2"}, "not found"},
		{"layers too large", docker(makeImage(t, appConfig, []e{{name: "a", to: strings.Repeat("x", 2<<20)}})), Options{Limits: Limits{Bytes: 1 << 20}}, "--max-size"},
		{"too many files", docker(makeImage(t, appConfig, many(50))), Options{Limits: Limits{Entries: 20}}, "--max-files"},
		{"bad tar in a layer", docker(makeImage(t, appConfig, []e{{name: "a/../../b"}})), Options{}, "has .. in its name"},
		{"huge manifest.json", tarFile(t, e{name: "manifest.json", to: strings.Repeat(" ", maxJSON+1)}), Options{}, "at most 4 MiB"},
		{"a link as manifest.json", tarFile(t, e{name: "x", to: "[]"}, e{sym, "manifest.json", "x", 0, nil}), Options{Kind: KindDocker}, "no file of at most"},
		{"no images", tarFile(t, e{name: "manifest.json", to: "[]"}), Options{}, "no image in the archive"},
		{"not JSON", tarFile(t, e{name: "manifest.json", to: "x"}), Options{}, "manifest.json"},
		{"configuration is missing", tarFile(t, e{name: "manifest.json", to: `[{"Config":"../../etc/passwd","Layers":["x"]}]`}), Options{}, `"../../etc/passwd" is no file`},
		{"empty layout", ociLayout(t, nil), Options{}, "no image in the layout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Source, tt.o.Init = tt.source, []byte("init")
			if _, err := build(t, tt.o); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Build = %v; want one line with %q", err, tt.want)
			}
		})
	}
}

// TestLayoutLinks has a layout whose blobs are links to files of the host's.
func TestLayoutLinks(t *testing.T) {
	dir := ociLayout(t, map[string]v1.Image{"a": makeImage(t, appConfig, appLayers...)})
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		file := filepath.Join(dir, "blobs", "sha256", b.Name())
		if err := os.Rename(file, file+".x"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(file+".x", file); err != nil {
			t.Fatal(err)
		}
		if _, err := build(t, Options{Source: dir, NoInit: true}); err == nil {
			t.Errorf("Build with a link as blob %s = nil; want an error", b.Name())
		}
		if err := os.Rename(file+".x", file); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPlatforms chooses from an index of several platforms.
func TestPlatforms(t *testing.T) {
	idx := v1.ImageIndex(empty.Index)
	for _, p := range []string{"linux/arm64", "linux/amd64", "unknown/unknown"} {
		os, arch, _ := strings.Cut(p, "/")
		img := makeImage(t, func(c *v1.ConfigFile) { appConfig(c); c.OS, c.Architecture = os, arch }, append([][]e{{{name: "for", to: p}}}, appLayers...)...)
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch}}})
	}
	outer := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: idx, Descriptor: v1.Descriptor{Annotations: map[string]string{refName: "app"}}})
	dir := filepath.Join(t.TempDir(), "layout")
	if _, err := layout.Write(dir, outer); err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"", "app"} {
		file := mustBuild(t, Options{Source: dir, Tag: tag, NoInit: true})
		if got := debugfs(t, file, "cat /for"); got != "linux/amd64" {
			t.Errorf("with tag %q the image is for %q; want linux/amd64", tag, got)
		}
	}
}
