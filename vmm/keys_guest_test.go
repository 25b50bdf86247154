package vmm

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sampleGuests builds the sample guests and returns their folder.
func sampleGuests(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("make", "-C", "../guests", "OUT="+dir).CombinedOutput(); err != nil {
		t.Fatalf("make -C guests: %v\n%s(gcc and make have to be installed: scripts/setup.sh)", err, out)
	}
	return dir
}

// TestKeysGuest runs the guest that isolates a library of its own: through the
// gate it works, around the gate it ends, with a report that names the key.
func TestKeysGuest(t *testing.T) {
	requireKeys(t)
	path := filepath.Join(sampleGuests(t), "keys.hvt")
	for _, tt := range []struct {
		arg      string
		kind     FaultKind // "": none
		code     uint64
		message  string
		execOnly bool
	}{
		{"", "", 0, "", false},
		{"", "", 0, "", true},
		{"bypass", FaultTranslation, codePresent | codeUser | codeKey, ", protection key 1, rip=", false},
		{"bypass-write", FaultTranslation, codePresent | codeUser | codeWrite | codeKey, ", protection key 1, rip=", false},
		{"bypass-hypercall", FaultPointer, 0, "no read permission there", false},
	} {
		var out bytes.Buffer
		cfg := Config{Kernel: path, Memory: 4 << 20, Ring: RingSealed, TSSAvailable: inLab, Console: &out, SealExecOnly: tt.execOnly}
		if tt.arg != "" {
			cfg.Args = []string{tt.arg}
		}
		vm := newVM(t, cfg)
		res, err := runVM(t, vm)
		if !strings.HasPrefix(out.String(), "keys: mac(42)=0x") || strings.Contains(out.String(), "NOT CAUGHT") {
			t.Errorf("keys %s: output = %q; want the gate to work and the bypass to be caught", tt.arg, out.String())
		}
		if tt.kind == "" {
			if err != nil || res.Status != 0 || vm.Traps() != 0 {
				t.Errorf("keys: Run() = %+v, %v, %d traps; want status 0 without any", res, err, vm.Traps())
			}
			continue
		}
		var e *GuestError
		if !errors.As(err, &e) || e.Kind != tt.kind || e.Code != tt.code || !strings.Contains(err.Error(), tt.message) {
			t.Errorf("keys %s: Run() = %v; want kind %q, error code %#x, %q", tt.arg, err, tt.kind, tt.code, tt.message)
		} else if tt.kind == FaultTranslation && (e.Key != 1 || e.Vector != vecPF) {
			t.Errorf("keys %s: key %d, vector %d; want 1, 14", tt.arg, e.Key, e.Vector)
		}
	}
}
