// Package wire is what the two sides of the lab say to each other: the plan
// that travels in the initramfs, and the events that come back, one JSON object
// a line.
package wire

import (
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Where the lab's own files lie in the initramfs.
const (
	PlanPath  = "/lab/plan.json"
	ModuleDir = "/lab/modules/"
)

// Port is the name of the virtio-serial port on which the events leave.
const Port = "uvm.lab"

// Plan is what the lab does after booting.
type Plan struct {
	// Modules are the files in ModuleDir to load, in this order.
	Modules []string `json:"modules"`
	Jobs    []Job    `json:"jobs"`
	// Serial makes the events leave through the second serial port and be
	// held back until their job has ended: the virtio-serial port interrupts
	// when the host gets round to it, which a repeatable measurement must not
	// see.
	Serial bool `json:"serial,omitempty"`
	// Shell runs this on the console, and no job.
	Shell []string `json:"shell,omitempty"`
	// Env is the environment of everything.
	Env []string `json:"env"`
}

// Job is one command.
type Job struct {
	Name string   `json:"name"`
	Argv []string `json:"argv"`
	Env  []string `json:"env,omitempty"` // added to the Plan's
	Dir  string   `json:"dir,omitempty"` // empty means /
	// Bound is the time after which the job is killed, in the lab's own time.
	Bound time.Duration `json:"bound"`
	// Merge sends stderr where stdout goes.
	Merge bool `json:"merge,omitempty"`
	// Results are files that are sent back after the job.
	Results []string `json:"results,omitempty"`
	// Again runs the job a second time where the Bound ended it.
	Again bool `json:"again,omitempty"`
}

// Kinds of event.
const (
	Up     = "up"     // the agent runs: Uptime, Error if the lab is not usable
	Start  = "start"  // of Job; a second one throws away what came after the first
	Output = "output" // of Job: Stream and bytes
	File   = "file"   // a part of the result file Path
	Exit   = "exit"   // of Job: its verdict
	Done   = "done"   // all jobs have had their verdict
)

// Event is one line from the lab.
type Event struct {
	Event string `json:"event"`
	Job   int    `json:"job"` // index in the Plan
	// Stream is 1 for stdout, 2 for stderr.
	Stream int `json:"stream,omitempty"`
	// Text or, where the bytes are not UTF-8, Data is output or content.
	Text string `json:"text,omitempty"`
	Data []byte `json:"data,omitempty"`
	Path string `json:"path,omitempty"`
	// Status is the exit status, 128+n after signal n, -1 where there was none.
	Status int `json:"status"`
	// TimedOut says that the Bound ended the job.
	TimedOut bool `json:"timedout,omitempty"`
	// Error is what went wrong apart from the status.
	Error string `json:"error,omitempty"`
	// Elapsed is the job's duration; of an Up event, the time since the kernel
	// started. In the lab's own time.
	Elapsed time.Duration `json:"elapsed,omitempty"`
}

// SetBytes stores b.
func (e *Event) SetBytes(b []byte) {
	if utf8.Valid(b) {
		e.Text, e.Data = string(b), nil
	} else {
		e.Text, e.Data = "", b
	}
}

// Bytes returns what SetBytes stored.
func (e *Event) Bytes() []byte {
	if e.Data != nil {
		return e.Data
	}
	return []byte(e.Text)
}

// Encode returns the event's line, with its newline.
func (e *Event) Encode() []byte {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // no field can fail
	}
	return append(b, '\n')
}
