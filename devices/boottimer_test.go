package devices

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

func TestBootTimer(t *testing.T) {
	b := NewBootTimer()
	past := time.Unix(1, 2)
	b.RecordAt("start", past, 3)
	before, cpu := time.Now(), CPUTime()
	b.Record("now")
	if err := b.PortOut(MarkPort, 1, []byte{7}); err != nil {
		t.Fatal(err)
	}
	marks, dropped := b.Marks()
	if len(marks) != 3 || dropped != 0 {
		t.Fatalf("Marks() = %d marks, %d dropped; want 3, 0", len(marks), dropped)
	}
	if marks[0] != (Mark{Name: "start", At: past, CPU: 3}) {
		t.Errorf("mark 0 = %+v; want as recorded", marks[0])
	}
	for i, want := range []Mark{{Name: "now"}, {Value: 7}} {
		m := marks[i+1]
		if m.Name != want.Name || m.Value != want.Value || m.At.Before(before) || m.CPU < cpu {
			t.Errorf("mark %d = %+v; want name %q, value %d, taken after %v and %v of CPU", i+1, m, want.Name, want.Value, before, cpu)
		}
		if got := m.Guest(); got != (want.Name == "") {
			t.Errorf("mark %d: Guest() = %v; want %v", i+1, got, !got)
		}
	}
	// The caller's copy is its own.
	marks[0].Name = "changed"
	if again, _ := b.Marks(); again[0].Name != "start" {
		t.Errorf("Marks() gives away its memory: mark 0 is now %q; want start", again[0].Name)
	}
	if CPUTime() <= 0 {
		t.Errorf("CPUTime() = %v; want more than 0", CPUTime())
	}
}

func TestBootTimerPort(t *testing.T) {
	b := NewBootTimer()
	for _, size := range []int{2, 4} {
		var pe *PortError
		if err := b.PortOut(MarkPort, size, make([]byte, size)); !errors.As(err, &pe) || *pe != (PortError{MarkPort, size, 1, true}) {
			t.Errorf("PortOut of %d bytes = %v; want a PortError", size, err)
		}
	}
	data := []byte{9}
	var pe *PortError
	if err := b.PortIn(MarkPort, 1, data); !errors.As(err, &pe) || *pe != (PortError{MarkPort, 1, 1, false}) || data[0] != 9 {
		t.Errorf("PortIn = %v; want a PortError and the data left alone", err)
	}
	if marks, _ := b.Marks(); len(marks) != 0 {
		t.Errorf("refused accesses made %d marks; want 0", len(marks))
	}
	// OUTS with REP is one call: a mark for each byte, in order.
	if err := b.PortOut(MarkPort, 1, []byte{3, 1, 2}); err != nil {
		t.Fatal(err)
	}
	marks, _ := b.Marks()
	if len(marks) != 3 || marks[0].Value != 3 || marks[1].Value != 1 || marks[2].Value != 2 {
		t.Errorf("marks after 3, 1, 2 = %+v; want those", marks)
	}
}

// TestBootTimerCap: a guest that marks for ever costs the monitor a counter.
func TestBootTimerCap(t *testing.T) {
	b := NewBootTimer()
	data := make([]byte, 1000) // one OUTS
	for i := range 3 {
		if err := b.PortOut(MarkPort, 1, data); err != nil {
			t.Fatal(err)
		}
		marks, dropped := b.Marks()
		if want := uint64(1000*(i+1) - maxMarks); len(marks) != maxMarks || dropped != want {
			t.Errorf("Marks() after %d marks = %d, %d dropped; want %d, %d", 1000*(i+1), len(marks), dropped, maxMarks, want)
		}
	}
	// The guest cannot crowd out what the monitor has to say.
	// The guest cannot keep the monitor from making its own.
	b.Record("late")
	if marks, dropped := b.Marks(); len(marks) != maxMarks+1 || marks[maxMarks].Name != "late" || dropped != 3000-maxMarks {
		t.Errorf("Record on a full timer: %d marks, %d dropped; want %d, %d", len(marks), dropped, maxMarks+1, 3000-maxMarks)
	}
}

func TestBootTimerState(t *testing.T) {
	b := NewBootTimer()
	b.Record("monitor")
	if err := b.PortOut(MarkPort, 1, bytes.Repeat([]byte{5, 6}, 150)); err != nil { // 300: 256 fit
		t.Fatal(err)
	}
	state, err := b.SaveState()
	if err != nil || len(state) != 8+maxMarks*savedMarkSize {
		t.Fatalf("SaveState() = %d bytes, %v; want %d: the guest's marks only", len(state), err, 8+maxMarks*savedMarkSize)
	}
	fresh := NewBootTimer()
	if err := fresh.LoadState(state); err != nil {
		t.Fatal(err)
	}
	want, _ := b.Marks()
	got, dropped := fresh.Marks()
	if len(got) != maxMarks || dropped != 44 {
		t.Fatalf("Marks() after LoadState = %d, %d dropped; want %d, 44", len(got), dropped, maxMarks)
	}
	for i, m := range got {
		w := want[i+1]
		if m.Name != "" || m.Value != w.Value || !m.At.Equal(w.At) || m.CPU != w.CPU {
			t.Fatalf("mark %d after LoadState = %+v; want %+v", i, m, w)
		}
	}
	again, err := fresh.SaveState()
	if err != nil || !bytes.Equal(again, state) {
		t.Errorf("SaveState after LoadState differs from what was loaded (%v)", err)
	}
	// Marks that were there stay first, and the bound still holds.
	full := NewBootTimer()
	full.Record("first")
	if err := full.PortOut(MarkPort, 1, []byte{9}); err != nil {
		t.Fatal(err)
	}
	if err := full.LoadState(state); err != nil {
		t.Fatal(err)
	}
	if got, dropped := full.Marks(); len(got) != maxMarks+1 || dropped != 45 || got[0].Name != "first" || got[1].Value != 9 || got[2].Value != 5 {
		t.Errorf("Marks() after LoadState into a timer with one of the guest's = %d, %d dropped; want %d, 45, the old ones first", len(got), dropped, maxMarks+1)
	}
}

func TestBootTimerBadState(t *testing.T) {
	for _, n := range []int{0, 1, 7, 9, 8 + savedMarkSize - 1, 8 + savedMarkSize + 1, 8 + (maxMarks+1)*savedMarkSize} {
		b := NewBootTimer()
		b.RecordAt("kept", time.Unix(1, 0), 1)
		err := b.LoadState(make([]byte, n))
		if want := fmt.Sprintf("boot timer: saved state has %d bytes, need 8 + n × 17 with n up to 256", n); err == nil || err.Error() != want {
			t.Errorf("LoadState of %d bytes = %v; want %q", n, err, want)
		}
		if marks, dropped := b.Marks(); len(marks) != 1 || dropped != 0 {
			t.Errorf("LoadState of %d bytes leaves %d marks, %d dropped; want 1, 0 as before", n, len(marks), dropped)
		}
	}
	// Any values are as good as any others.
	b := NewBootTimer()
	state := bytes.Repeat([]byte{0xff}, 8+maxMarks*savedMarkSize)
	binary.LittleEndian.PutUint64(state, 5)
	if err := b.LoadState(state); err != nil {
		t.Fatal(err)
	}
	if marks, dropped := b.Marks(); len(marks) != maxMarks || dropped != 5 || marks[0].CPU != -1 {
		t.Errorf("LoadState of all ones = %d marks, %d dropped, CPU %v; want %d, 5, -1ns", len(marks), dropped, marks[0].CPU, maxMarks)
	}
}

// TestBootTimerConcurrent is for the race detector, and for the sum.
func TestBootTimerConcurrent(t *testing.T) {
	b := NewBootTimer()
	var wg sync.WaitGroup
	const goroutines, each = 8, 100
	for i := range goroutines {
		wg.Go(func() {
			for range each {
				switch i % 4 {
				case 0:
					b.Record("m")
				case 1:
					b.RecordAt("m", time.Time{}, 0)
				default:
					if err := b.PortOut(MarkPort, 1, []byte{1}); err != nil {
						t.Error(err)
					}
				}
				if _, err := b.SaveState(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	// Half of the goroutines play the guest.
	const own, guest = goroutines / 2 * each, goroutines / 2 * each
	if marks, dropped := b.Marks(); len(marks) != own+maxMarks || dropped != guest-maxMarks {
		t.Errorf("Marks() after %d of the monitor and %d of the guest = %d, %d dropped; want %d, %d", own, guest, len(marks), dropped, own+maxMarks, guest-maxMarks)
	}
}
