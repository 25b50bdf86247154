package devices

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// MarkPort is the I/O port on which a guest reports its boot: each byte
// written there is a mark. The monitor adds marks of its own.
const MarkPort = 0x3f0

// maxMarks bounds what a guest can make the monitor remember. The monitor's own
// marks do not count: a dozen in a VM's life.
const maxMarks = 256

// Mark is a point on the boot timeline.
type Mark struct {
	Name  string        `json:"name,omitempty"`  // the monitor's own marks; "" for the guest's
	Value byte          `json:"value,omitempty"` // what the guest wrote
	At    time.Time     `json:"at"`
	CPU   time.Duration `json:"cpu_ns"` // processor time of the whole process until then
}

// Guest says that the guest made the mark.
func (m *Mark) Guest() bool { return m.Name == "" }

// BootTimer collects marks. Its methods may be called from any goroutine.
type BootTimer struct {
	mu      sync.Mutex
	marks   []Mark
	guest   int    // how many of marks are the guest's
	dropped uint64 // marks of the guest beyond maxMarks
}

// NewBootTimer returns a timer without marks.
func NewBootTimer() *BootTimer { return &BootTimer{marks: make([]Mark, 0, 16)} }

// CPUTime is the processor time that the process has used so far.
func CPUTime() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts) // fails for bad arguments only
	return time.Duration(ts.Nano())
}

// Record makes a mark of the monitor's now.
func (t *BootTimer) Record(name string) {
	t.add(Mark{Name: name, At: time.Now(), CPU: CPUTime()})
}

// RecordAt makes a mark for a moment in the past.
func (t *BootTimer) RecordAt(name string, at time.Time, cpu time.Duration) {
	t.add(Mark{Name: name, At: at, CPU: cpu})
}

func (t *BootTimer) add(m Mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m.Guest() {
		if t.guest == maxMarks {
			t.dropped++
			return
		}
		t.guest++
	}
	t.marks = append(t.marks, m)
}

// Marks returns a copy of the marks in the order in which they were made, and
// the number of the guest's that came after it had made maxMarks.
func (t *BootTimer) Marks() (marks []Mark, dropped uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]Mark(nil), t.marks...), t.dropped
}

// PortOut makes a mark of every byte.
func (t *BootTimer) PortOut(port uint16, size int, data []byte) error {
	if size != 1 {
		return NewPortError(port, size, data, true)
	}
	for _, b := range data {
		t.add(Mark{Value: b, At: time.Now(), CPU: CPUTime()})
	}
	return nil
}

// PortIn is refused: the port has nothing to say.
func (t *BootTimer) PortIn(port uint16, size int, data []byte) error {
	return NewPortError(port, size, data, false)
}

// A saved state is the count of dropped marks (8 bytes), then a savedMark for each mark
// of the guest, little-endian and without padding. The monitor's marks describe the
// process that made them and are not saved.
type savedMark struct {
	Value byte
	At    int64 // Unix time in ns
	CPU   time.Duration
}

const savedMarkSize = 17

// SaveState returns the guest's marks.
func (t *BootTimer) SaveState() ([]byte, error) {
	marks, dropped := t.Marks()
	b := binary.LittleEndian.AppendUint64(nil, dropped)
	for i := range marks {
		if m := &marks[i]; m.Guest() {
			b, _ = binary.Append(b, binary.LittleEndian, savedMark{m.Value, m.At.UnixNano(), m.CPU}) // fails for types without a size only
		}
	}
	return b, nil
}

// LoadState adds saved marks after those that are there.
func (t *BootTimer) LoadState(state []byte) error {
	n := (len(state) - 8) / savedMarkSize
	if len(state) != 8+n*savedMarkSize || n > maxMarks {
		return fmt.Errorf("boot timer: saved state has %d bytes, need 8 + n × %d with n up to %d", len(state), savedMarkSize, maxMarks)
	}
	saved := make([]savedMark, n)
	binary.Decode(state[8:], binary.LittleEndian, saved)
	t.mu.Lock()
	t.dropped += binary.LittleEndian.Uint64(state)
	t.mu.Unlock()
	for _, m := range saved {
		t.add(Mark{Value: m.Value, At: time.Unix(0, m.At), CPU: m.CPU})
	}
	return nil
}
