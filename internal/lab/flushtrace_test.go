package lab

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// traced is how many records the guest of TestFlushTrace writes: one block at a time, a flush,
// and a line on the console when the flush is complete.
const traced = 20

// flushTraces have uvm's system calls, and the kernel's work for an io_uring, written down. strace
// sees the calls of the thread pool, which uvm takes where io_uring_setup fails; what an io_uring
// does is in the kernel's own trace of ext4.
var flushTraces = []struct {
	name, cache, script string
	events              func(trace string) []string
	flushes             bool
}{
	{"threads", "writeback", strace, straceEvents, true},
	{"threads, direct", "none", strace, straceEvents, true},
	{"threads, unsafe", "unsafe", strace, straceEvents, false},
	{"io_uring", "writeback", ftrace, ftraceEvents, true},
	{"io_uring, unsafe", "unsafe", ftrace, ftraceEvents, false},
}

const (
	traceGuest = `uvm run kernel -m 64M --initrd initrd --disk "/mnt/guest.img,cache=$CACHE" --cmdline quiet`
	strace     = `strace -f -y -o /trace -e trace=pwritev,fdatasync,write,io_uring_setup -e inject=io_uring_setup:error=EPERM ` + traceGuest
	ftrace     = `mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || true
cd /sys/kernel/tracing
echo 0 >tracing_on
echo >trace
echo 1 >events/ext4/ext4_da_write_begin/enable
echo 1 >events/ext4/ext4_sync_file_enter/enable
echo 1 >events/ext4/ext4_sync_file_exit/enable
echo 1 >events/syscalls/sys_enter_write/enable
echo 'fd == 1' >events/syscalls/sys_enter_write/filter
echo 8192 >buffer_size_kb
echo 1 >tracing_on
cd /vm
` + traceGuest + `
cd /sys/kernel/tracing
echo 0 >tracing_on
cat trace >/trace
`
)

// TestFlushTrace: nothing of a flush is on the guest's console before an fdatasync that began
// after the write it is for has returned.
func TestFlushTrace(t *testing.T) {
	t.Parallel()
	d := newDurable(t, fmt.Sprintf("durable raw /dev/vda %d\nreboot -f\n", traced))
	var jobs []Job
	for _, tr := range flushTraces {
		jobs = append(jobs, Job{
			Name: tr.name, Dir: "/vm", Bound: 4 * time.Minute, Again: true, Env: []string{"CACHE=" + tr.cache}, Results: []string{"/trace"},
			Argv: []string{"sh", "-ec", "mkdir -p /mnt\nmount -t ext4 /dev/vda /mnt\n" + tr.script + "\numount /mnt"},
			Check: func(t *testing.T, r *Result) {
				if n := strings.Count(r.Stdout, "R "); r.Status != 0 || n != traced {
					t.Fatalf("status %d, %d records; want 0 and %d\n%s\n%s", r.Status, n, traced, r.Stdout, r.Stderr)
				}
				events := tr.events(string(r.Files["/trace"]))
				if got := orderOf(events); (got == "") != tr.flushes {
					t.Errorf("flushes in the trace: %q; want them: %v\n%s", got, tr.flushes, tail(r.Files["/trace"], 100))
				}
			},
		})
	}
	Run(t, Options{Files: d.files, Disks: []Disk{{Path: d.path("lab.img")}}, Tools: []string{"strace"}}, jobs...)
}

// orderOf wants the events "write N" (which has ended, or for an io_uring begun), "flush" (begun),
// "flushed" (with success) and "console" to come in this order for each record, and says what is wrong.
func orderOf(events []string) string {
	next, state := 0, "console"
	for _, e := range events {
		switch {
		case e == fmt.Sprint("write ", next) && state == "console":
			state, next = "write", next+1
		case e == "flush" && state == "write", e == "flushed" && state == "flush":
			state = e
		case e == "console" && (state == "flushed" || state == "console"):
			state = e
		case state == "console" && next == 0 && !strings.HasPrefix(e, "write"): // before the first record
		case e == "flush", e == "flushed":
			if state == "console" && next == traced { // when the guest ends
				continue
			}
			fallthrough
		default:
			return fmt.Sprintf("%q in record %d after %q", e, next-1, state)
		}
	}
	if next != traced {
		return fmt.Sprintf("%d records", next)
	}
	return ""
}

var (
	straceWrite = regexp.MustCompile(`pwritev\(\d+<[^>]*guest\.img>.*, (\d+)(?:\) += (\d+)| <unfinished)`)
	straceEnd   = regexp.MustCompile(`<\.\.\. (\w+) resumed>.*\) += (-?\d+)`)
	straceSync  = regexp.MustCompile(`fdatasync\(\d+<[^>]*guest\.img>(?:\) += (-?\d+)| <unfinished)`)
	straceOut   = regexp.MustCompile(`^\d+ +write\(1<`)
)

func straceEvents(trace string) (events []string) {
	write := ""
	for line := range strings.Lines(trace) {
		if m := straceWrite.FindStringSubmatch(line); m != nil {
			at, _ := strconv.Atoi(m[1])
			if write = fmt.Sprint("write ", at/4096); m[2] == "4096" {
				events = append(events, write)
			}
		} else if m := straceSync.FindStringSubmatch(line); m != nil {
			if events = append(events, "flush"); m[1] == "0" {
				events = append(events, "flushed")
			}
		} else if m := straceEnd.FindStringSubmatch(line); m != nil && m[1] == "pwritev" && m[2] == "4096" {
			events = append(events, write)
		} else if m != nil && m[1] == "fdatasync" && m[2] == "0" {
			events = append(events, "flushed")
		} else if straceOut.MatchString(line) {
			events = append(events, "console")
		}
	}
	return events
}

var (
	ftraceWrite = regexp.MustCompile(`ext4_da_write_begin: .* pos (\d+) len 4096`)
	ftraceSync  = regexp.MustCompile(`ext4_sync_file_enter: .* datasync 1`)
	ftraceEnd   = regexp.MustCompile(`ext4_sync_file_exit: .* ret 0`)
	ftraceOut   = regexp.MustCompile(` uvm-.*sys_write\(fd: 1,`)
)

func ftraceEvents(trace string) (events []string) {
	for line := range strings.Lines(trace) {
		if m := ftraceWrite.FindStringSubmatch(line); m != nil {
			at, _ := strconv.Atoi(m[1])
			events = append(events, fmt.Sprint("write ", at/4096))
		} else if ftraceSync.MatchString(line) {
			events = append(events, "flush")
		} else if ftraceEnd.MatchString(line) {
			events = append(events, "flushed")
		} else if ftraceOut.MatchString(line) {
			events = append(events, "console")
		}
	}
	return events
}
