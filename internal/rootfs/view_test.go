package rootfs

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestLook finds the same in an image in each of its forms, in a tar file and in a folder.
func TestLook(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	layers := append(slices.Clone(appLayers), []e{{name: "bin/script", to: "#!/opt/app\n"}, {tar.TypeSymlink, "sbin", "../../../bin", 0, nil}, {tar.TypeFifo, "opt/fifo", "", 0, nil}})
	img := makeImage(t, appConfig, layers...)
	oci := ociLayout(t, map[string]v1.Image{"app:1": img})
	dir := t.TempDir()
	err := errors.Join(os.MkdirAll(dir+"/opt", 0o755), os.Mkdir(dir+"/bin", 0o755), os.WriteFile(dir+"/opt/app", []byte(elfFor(62)), 0o755),
		os.WriteFile(dir+"/bin/script", []byte("#!/opt/app\n"), 0o755), os.Symlink("../../../bin", dir+"/sbin"))
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]string{
		"docker": dockerSave(t, map[string]v1.Image{"app:1": img}), "layout": oci, "layout in a tar": pack(t, oci), "tar": tarFile(t, slices.Concat(layers[0][:3], layers[2])...), "folder": dir,
	} {
		v, err := Look(t.Context(), Options{Source: source})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		isImage := name != "tar" && name != "folder"
		if v.Image != isImage || isImage && (v.Start.Entrypoint[0] != "app" || v.Start.SearchPath()[0] != "/opt") {
			t.Errorf("%s: image %v, start %+v; want %v and the configuration's", name, v.Image, v.Start, isImage)
		}
		for file, want := range map[string]string{"opt/app": elfFor(62), "bin/script": "#!/opt/app\n"} {
			if b, err := fs.ReadFile(v.FS, file); string(b) != want {
				t.Errorf("%s: ReadFile(%s) = %q, %v; want %q", name, file, b, err, want)
			}
			if info, err := v.FS.Lstat(file); err != nil || info.Size() != int64(len(want)) || info.Mode() != 0o755 {
				t.Errorf("%s: Lstat(%s) = %v, %v; want a file of %d bytes", name, file, info, err, len(want))
			}
		}
		// What is no program has no content here, and an archive's is nowhere on the host.
		if b, err := fs.ReadFile(v.FS, "etc/passwd"); isImage && (err != nil || len(b) == 0 || b[0] != 0) {
			t.Errorf("%s: ReadFile(etc/passwd) = %q, %v; want zeros", name, b, err)
		}
		if to, err := v.FS.ReadLink("sbin"); to != "../../../bin" {
			t.Errorf("%s: ReadLink(sbin) = %q, %v; want ../../../bin", name, to, err)
		}
		for _, bad := range []string{"gone", "../etc/passwd", "/opt/app", "opt/app/x", "opt", "opt/fifo", "sbin"} {
			if f, err := v.FS.Open(bad); err == nil {
				if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
					t.Errorf("%s: Open(%s) works; want an error", name, bad)
				}
				f.Close()
			}
		}
		if _, err := v.FS.ReadLink("opt/app"); err == nil {
			t.Errorf("%s: ReadLink(opt/app) works; want an error", name)
		}
		var found []string
		err = fs.WalkDir(v.FS, ".", func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && filepath.Dir(path) != "etc" && filepath.Dir(path) != "." {
				found = append(found, path)
			}
			return err
		})
		want := []string{"bin/script", "opt/app"}
		if isImage {
			want = append(want, "opt/second")
		}
		if err != nil || !slices.Equal(found, want) {
			t.Errorf("%s: WalkDir finds %q, %v; want %q", name, found, err, want)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, source := range []string{"/no/such", write(t, []byte("text")), write(t, makeTar(t)), write(t, gzipped(t, makeTar(t, e{name: "x"}))[:20])} {
		if v, err := Look(t.Context(), Options{Source: source}); err == nil {
			t.Errorf("Look() = %+v; want an error", v)
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left in TMPDIR: %v, %v; want nothing", left, err)
	}
}
