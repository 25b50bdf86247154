package trace

import (
	"fmt"

	"github.com/uvm-monitor/uvm/devices"
)

const vecPF = 14

// vectorName is an exception's mnemonic (AMD64 APM volume 2, section 8.2).
func vectorName(v uint16) string {
	names := map[uint16]string{0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS",
		11: "#NP", 12: "#SS", 13: "#GP", vecPF: "#PF", 16: "#MF", 17: "#AC", 18: "#MC", 19: "#XF", 21: "#CP", 28: "#HV", 29: "#VC", 30: "#SX"}
	if s := names[v]; s != "" {
		return s
	}
	return fmt.Sprintf("vector %d", v)
}

// portName is what is at an I/O port; "" for nothing of the machine's.
func portName(p uint16) string {
	switch {
	case p >= devices.COM1 && p < devices.COM1+8:
		return "COM1 " + [...]string{"data", "IER", "IIR/FCR", "LCR", "MCR", "LSR", "MSR", "SCR"}[p-devices.COM1]
	case p >= devices.PM1aEvent && p < devices.PM1aControl:
		return "PM1a event"
	}
	return map[uint16]string{devices.MarkPort: "boot mark", devices.CMOSPort: "CMOS index", devices.CMOSPort + 1: "CMOS data",
		0x60: "i8042 data", devices.ResetPort: "i8042 command", 0xf4: "debug exit", 0x501: "nanos exit",
		devices.PM1aControl: "PM1a control", devices.PM1aControl + 1: "PM1a control"}[p]
}

// registerName is a register of virtio-mmio version 2 (virtio 1.2, section 4.2.2).
func registerName(off uint64) string {
	names := map[uint64]string{0x000: "MagicValue", 0x004: "Version", 0x008: "DeviceID", 0x00c: "VendorID",
		0x010: "DeviceFeatures", 0x014: "DeviceFeaturesSel", 0x020: "DriverFeatures", 0x024: "DriverFeaturesSel",
		0x030: "QueueSel", 0x034: "QueueNumMax", 0x038: "QueueNum", 0x044: "QueueReady", 0x050: "QueueNotify",
		0x060: "InterruptStatus", 0x064: "InterruptACK", 0x070: "Status", 0x080: "QueueDescLow", 0x084: "QueueDescHigh",
		0x090: "QueueDriverLow", 0x094: "QueueDriverHigh", 0x0a0: "QueueDeviceLow", 0x0a4: "QueueDeviceHigh",
		0x0ac: "SHMSel", 0x0b0: "SHMLenLow", 0x0b4: "SHMLenHigh", 0x0b8: "SHMBaseLow", 0x0bc: "SHMBaseHigh", 0x0fc: "ConfigGeneration"}
	switch s := names[off]; {
	case s != "":
		return s
	case off >= 0x100:
		return fmt.Sprintf("Config+%#x", off-0x100)
	}
	return fmt.Sprintf("%#x", off)
}
