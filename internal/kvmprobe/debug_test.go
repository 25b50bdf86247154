package kvmprobe

import (
	"testing"

	"github.com/uvm-monitor/uvm/internal/testutil"
)

// TestDebug tries the debug exits. Each KVM that is known can single-step ring 0; which others it has is what the probe is for.
func TestDebug(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.CheckFDs(t)
	d, err := Debug(testutil.KVMDevice)
	if err != nil || !d.Step {
		t.Fatalf("Debug() = %+v, %v; want Step", d, err)
	}
	if again, err := Debug(testutil.KVMDevice); again != d || err != nil {
		t.Errorf("Debug() once more = %+v, %v; want %+v", again, err, d)
	}
	t.Logf("%+v", d)
	if _, err := Debug("/dev/null"); err == nil {
		t.Error("Debug(/dev/null) = nil; want an error")
	}
}
