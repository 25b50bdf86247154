package rootfs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// fill runs Fill into a file without a name, as uvm does, and returns it under one.
func fill(t testing.TB, cache string, o Options, args ...string) (string, error) {
	t.Helper()
	o.Init = []byte("init")
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	ports, err := Fill(t.Context(), f, cache, o, args)
	if err != nil {
		return "", err
	}
	if !slices.Equal(ports, []string{"80/tcp"}) {
		t.Errorf("Fill = %q; want the port that the image exposes", ports)
	}
	named := f.Name() + ".ext4"
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err == nil {
		err = os.WriteFile(named, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	fsck(t, named)
	return named, nil
}

func names(t testing.TB, dir string) (l []string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		l = append(l, f.Name())
	}
	return l
}

// TestFill starts an image eight times at once in an empty cache: it is made once, and each gets
// the same. What one changes in its copy stays out of the cache.
func TestFill(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "images")
	source := dockerSave(t, map[string]v1.Image{"app:1": makeImage(t, appConfig, appLayers...)})
	var wg sync.WaitGroup
	var mu sync.Mutex
	reading := 0
	for range 8 {
		wg.Go(func() {
			last := int64(0)
			o := Options{Source: source, Progress: func(stage string, done, all int64) {
				if stage == "reading" && last == 0 {
					mu.Lock()
					reading++
					mu.Unlock()
				}
				last = done
			}}
			if _, err := fill(t, cache, o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if reading != 1 {
		t.Errorf("the image was read %d times; want once", reading)
	}
	got := names(t, cache)
	if len(got) != 2 || !strings.HasSuffix(got[0], ".ext4") || !strings.HasSuffix(got[1], ".lock") {
		t.Fatalf("the cache holds %q; want one image and its lock", got)
	}
	kept := filepath.Join(cache, got[0])
	before, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	file, err := fill(t, cache, Options{Source: source, Start: Start{Env: []string{"GREETING=bye", "NEW=a=b"}}}, "other words", "")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Split(debugfs(t, file, "cat "+StartPath), "\x00")
	for _, want := range []string{"eGREETING=bye", "eNEW=a=b", "ePATH=/opt", "u33", "w/srv/data"} {
		if !slices.Contains(text, want) {
			t.Errorf("start description = %q; want %q in it", text, want)
		}
	}
	if at := slices.Index(text, "aapp"); at < 0 || !slices.Equal(text[at:], []string{"aapp", "-", "aother words", "a", ""}) {
		t.Errorf("start description = %q; want app with the other words at its end", text)
	}
	if after, err := os.ReadFile(kept); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the cached image has changed (%v)", err)
	}
	if after := names(t, cache); !slices.Equal(got, after) {
		t.Errorf("the cache holds %q; want %q as before", after, got)
	}
	// The same image in another form is the same.
	oci := ociLayout(t, map[string]v1.Image{"x": makeImage(t, appConfig, appLayers...)})
	for _, source := range []string{oci, pack(t, oci)} {
		if _, err := fill(t, cache, Options{Source: source, Limits: Limits{Entries: 1000}}); err != nil {
			t.Error(err)
		}
	}
	if after := names(t, cache); !slices.Equal(got, after) {
		t.Errorf("the cache holds %q; want %q as before", after, got)
	}
}

func TestFillErrors(t *testing.T) {
	plain := t.TempDir()
	if err := os.WriteFile(filepath.Join(plain, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	good := makeImage(t, appConfig, appLayers...)
	for _, tt := range []struct {
		source string
		o      Options
		want   string
	}{
		{plain, Options{}, "is not a container image: make a root file system of it with uvm rootfs"},
		{tarFile(t, e{name: "x"}), Options{}, "is not a container image"},
		{"/no/such", Options{}, "no such file"},
		{dockerSave(t, map[string]v1.Image{"a:1": good}), Options{Tag: "b:1"}, "not found"},
		{dockerSave(t, map[string]v1.Image{"a:1": good}), Options{Start: Start{Env: []string{"x"}}}, `"x" is not KEY=VALUE`},
		{ociLayout(t, map[string]v1.Image{"a": makeImage(t, nil, appLayers...)}), Options{}, "no entry point"},
	} {
		cache := filepath.Join(t.TempDir(), "images")
		tt.o.Source = tt.source
		if _, err := fill(t, cache, tt.o); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("Fill(%s) = %v; want one line with %q", tt.source, err, tt.want)
		}
		for _, name := range names(t, cache) {
			if strings.HasPrefix(name, ".") {
				t.Errorf("after an error the cache holds %s", name)
			}
		}
	}
}

// TestExposedPorts lists what is a port in a configuration.
func TestExposedPorts(t *testing.T) {
	for ports, want := range map[string][]string{
		`{}`: nil, `null`: nil,
		`{"8080/tcp":{},"80":{},"53/udp":{},"443/tcp":{}}`:                        {"53/udp", "80/tcp", "443/tcp", "8080/tcp"},
		`{"6000-6010/udp":{}}`:                                                    {"6000-6010/udp"},
		`{"x/tcp":{},"80/tcp\nx":{},"80/icmp":{},"-1":{},"":{},"1234567/tcp":{}}`: nil,
	} {
		got, err := exposedPorts([]byte(`{"config":{"ExposedPorts":` + ports + `}}`))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("exposedPorts(%s) = %q, %v; want %q", ports, got, err, want)
		}
	}
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf(`"%d":{}`, i+1))
	}
	if got, err := exposedPorts([]byte(`{"config":{"ExposedPorts":{` + strings.Join(many, ",") + `}}}`)); err != nil || len(got) != 64 {
		t.Errorf("exposedPorts of 100 ports = %q, %v; want 64", got, err)
	}
	if got, err := exposedPorts([]byte(`{"config":`)); err == nil {
		t.Errorf("exposedPorts of half a configuration = %q; want an error", got)
	}
}
