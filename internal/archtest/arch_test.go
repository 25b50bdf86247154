// Package archtest holds the tree to docs/architecture.md: who may import
// whom, where unsafe code may stand, and how large the core and a file may be.
package archtest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/uvm-monitor/uvm"

// allowed lists for each package of the core which of our packages it may
// import. What is not listed here may import anything of ours except package
// kvm, which is for vmm and for internal/kvmprobe only.
var allowed = map[string][]string{
	"kvm":              {},
	"memory":           {},
	"devices":          {},
	"devices/hostio":   {"devices"},
	"devices/virtio":   {"devices", "memory"},
	"hypercall":        {"devices", "memory"},
	"loader":           {"memory"},
	"vmm":              {"kvm", "memory", "loader", "hypercall", "devices", "devices/virtio", "devices/hostio"},
	"meter":            {"devices"},
	"vsock":            {"devices/virtio", "devices/hostio", "memory"},
	"netring":          {"devices", "devices/hostio", "hypercall", "memory"},
	"internal/hvtelf":  {"loader"},
	"internal/control": {},
}

// pluggable are the devices that a VM has only where the program around it adds them.
// They are held to the rules of the core, and not counted with it.
var pluggable = []string{"meter", "netring", "vsock"}

// exporter are the packages that may import Prometheus' client, which links net/http.
var exporter = []string{"metrics", "cmd/uvm-exporter"}

func onlyExporter(imp string) bool {
	return strings.HasPrefix(imp, "github.com/prometheus/") || imp == module+"/metrics"
}

// isCore says that a package belongs to what a security reviewer reads: it may
// use the standard library, golang.org/x/sys and our core, and no cgo.
func isCore(pkg string) bool {
	top, _, _ := strings.Cut(pkg, "/")
	return slices.Contains([]string{"kvm", "memory", "loader", "hypercall", "devices", "vmm"}, top)
}

// coreBound is what the core may have in lines of code: neither blank nor a
// comment alone. It has had more since Linux guests came; until it is back, coreNow
// holds it where it is, and only goes down.
const (
	coreBound = 6000
	coreNow   = 7345
)

type goPackage struct {
	ImportPath, Dir string
	Imports         []string
	GoFiles         []string
	TestGoFiles     []string
	XTestGoFiles    []string
	CgoFiles        []string
	Standard        bool
}

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) < len(allowed) {
		t.Fatalf("go list found %d packages", len(pkgs))
	}
	return pkgs
}

func TestImports(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		may, listed := allowed[name]
		for _, imp := range p.Imports {
			ours, isOurs := strings.CutPrefix(imp, module+"/")
			switch {
			case isOurs && listed && !slices.Contains(may, ours):
				t.Errorf("%s imports %s; it may import only %v of ours", name, ours, may)
			case isOurs && slices.Contains(pluggable, ours) && isCore(name):
				t.Errorf("%s imports %s, which is not for every VM", name, ours)
			case isOurs && !listed && isCore(name):
				t.Errorf("%s belongs to the core and is not in archtest's table", name)
			case isOurs && ours == "kvm" && name != "vmm" && name != "internal/kvmprobe":
				t.Errorf("%s imports kvm, which is for vmm and internal/kvmprobe only", name)
			case !isOurs && (isCore(name) || slices.Contains(pluggable, name)) && strings.Contains(strings.Split(imp, "/")[0], ".") && !strings.HasPrefix(imp, "golang.org/x/sys/"):
				t.Errorf("%s imports %s; the core uses the standard library and golang.org/x/sys only", name, imp)
			case onlyExporter(imp) && !slices.Contains(exporter, name):
				t.Errorf("%s imports %s, which is for %v only", name, imp, exporter)
			case (imp == "net/http" || imp == "net") && name != "cmd/uvm-exporter":
				t.Errorf("%s imports %s, which costs every start of uvm (see docs/architecture.md)", name, imp)
			}
		}
		if len(p.CgoFiles) > 0 {
			t.Errorf("%s uses cgo in %v", name, p.CgoFiles)
		}
	}
}

// TestStart looks at all that the programs link. What one does before main costs every start of
// uvm; its companions may link more, but nothing that speaks to a network.
func TestStart(t *testing.T) {
	for program, banned := range map[string][]string{
		"cmd/uvm":        {"net/http", "os/exec", "crypto/tls", "archive/tar", "github.com/google/go-containerregistry", "github.com/vishvananda/netlink", "github.com/charmbracelet/bubbletea", "github.com/prometheus/client_golang", module + "/metrics"},
		"cmd/uvm-image":  {"net/http", "crypto/tls"},
		"cmd/uvm-report": {"net/http", "crypto/tls", module + "/vmm"},
		"cmd/uvm-top":    {"net/http", "crypto/tls"},
		"cmd/uvm-net":    {"net/http", "crypto/tls", module + "/vmm"},
		"cmd/uvm-lupine": {"net/http", "crypto/tls"},
	} {
		out, err := exec.Command("go", "list", "-deps", module+"/"+program).Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", program, err)
		}
		for _, pkg := range strings.Fields(string(out)) {
			for _, b := range banned {
				if pkg == b || strings.HasPrefix(pkg, b+"/v") || strings.HasPrefix(pkg, b+"/pkg/") || strings.HasPrefix(pkg, b+"/prometheus") {
					t.Errorf("%s links %s", program, pkg)
				}
			}
		}
	}
}

func TestUnsafeFiles(t *testing.T) {
	for _, p := range list(t) {
		for _, f := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			src, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, imp := range src.Imports {
				path, _ := strconv.Unquote(imp.Path.Value)
				base := strings.TrimSuffix(strings.TrimSuffix(f, ".go"), "_test")
				if path == "unsafe" && !strings.HasSuffix(base, "_unsafe") {
					t.Errorf("%s/%s imports unsafe; only *_unsafe.go may", p.ImportPath, f)
				}
			}
		}
	}
}

func TestSizes(t *testing.T) {
	const fileLimit = 400
	core := 0
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, f := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			lines, code := countLines(t, filepath.Join(p.Dir, f))
			if lines > fileLimit {
				t.Errorf("%s/%s has %d lines; is there a second thing in it? (limit %d)", name, f, lines, fileLimit)
			}
			if isCore(name) && !strings.HasSuffix(f, "_test.go") {
				core += code
			}
		}
	}
	t.Logf("core: %d lines of code, %d above its bound of %d", core, core-coreBound, coreBound)
	if core > coreNow || core == 0 {
		t.Errorf("core has %d lines of code; want 1 to %d", core, coreNow)
	}
}

func countLines(t *testing.T, path string) (lines, code int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for s.Scan() {
		lines++
		if l := strings.TrimSpace(s.Text()); l != "" && !strings.HasPrefix(l, "//") {
			code++
		}
	}
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	return lines, code
}
