package metrics

import "github.com/prometheus/client_golang/prometheus"

// family is one metric. Its labels are those of its group, and its own.
type family struct {
	name   string
	kind   string // counter, gauge or histogram
	of     group
	labels []string
	help   string
}

// group says what a metric is about.
type group int

const (
	ofVM     group = iota // a VM: labels vm, name, kernel
	ofSocket              // a VM that need not answer: labels vm, name
	ofAll                 // the collector
)

var groupLabels = [...][]string{ofVM: {"vm", "name", "kernel"}, ofSocket: {"vm", "name"}, ofAll: nil}

// Indices of families.
const (
	vmUp = iota
	vmInfo
	vmState
	vmStart
	memorySize
	memoryResident
	processCPU
	vcpuCPU
	vcpuKVM
	vcpuHandling
	exits
	hypercalls
	hypercallTime
	traps
	unanswered
	guestMarks
	deviceOps
	deviceBytes
	deviceErrors
	deviceTime
	virtioInterrupts
	virtioDropped
	bootPhase
	scrapeVMs
	scrapeErrors
	scrapeTime
	numFamilies
)

const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
)

// families are all metrics that there are; docs/metrics.md has them as a table.
var families = [numFamilies]family{
	vmUp: {"uvm_vm_up", gauge, ofSocket, nil, "1 if the VM's monitor answers, 0 if its socket is there and it does not."},
	vmInfo: {"uvm_vm_info", gauge, ofVM, []string{"version"},
		"Always 1; version is that of the VM's uvm, empty for an embedded VM."},
	vmState:        {"uvm_vm_state", gauge, ofVM, []string{"state"}, "1 for the state that the VM is in; it has no other state's time series."},
	vmStart:        {"uvm_vm_start_time_seconds", gauge, ofVM, nil, "When the VM's first boot mark was made, since the epoch."},
	memorySize:     {"uvm_vm_memory_bytes", gauge, ofVM, nil, "Size of the guest's memory."},
	memoryResident: {"uvm_vm_memory_resident_bytes", gauge, ofVM, nil, "How much of the guest's memory the host has committed."},
	processCPU: {"uvm_process_cpu_seconds_total", counter, ofVM, nil,
		"Processor time of the process that the VM runs in, with all its threads; VMs of one process share it."},
	vcpuCPU:          {"uvm_vcpu_cpu_seconds_total", counter, ofVM, []string{"vcpu"}, "Processor time of a vCPU's thread, guest and monitor."},
	vcpuKVM:          {"uvm_vcpu_kvm_seconds_total", counter, ofVM, []string{"vcpu"}, "Time between exits, pauses included; only where the VM takes times."},
	vcpuHandling:     {"uvm_vcpu_exit_handling_seconds_total", counter, ofVM, []string{"vcpu"}, "Time at exits, a wait for POLL or the console included; only where the VM takes times."},
	exits:            {"uvm_exits_total", counter, ofVM, []string{"reason"}, "Exits of the guest by KVM's reason."},
	hypercalls:       {"uvm_hypercalls_total", counter, ofVM, []string{"call"}, "Hypercalls of an hvt guest."},
	hypercallTime:    {"uvm_hypercall_seconds_total", counter, ofVM, []string{"call"}, "Time in hypercalls, waits included; only where the VM takes times."},
	traps:            {"uvm_traps_total", counter, ofVM, []string{"vector"}, "Exceptions of a sealed guest by vector; those from 32 on are other."},
	unanswered:       {"uvm_unanswered_accesses_total", counter, ofVM, nil, "A PC's accesses to ports and addresses where nothing is."},
	guestMarks:       {"uvm_guest_boot_marks_total", counter, ofVM, nil, "Boot marks that the guest has made."},
	deviceOps:        {"uvm_device_operations_total", counter, ofVM, deviceLabels, "Frames of a net, requests of a disk, writes of the console, those that failed included."},
	deviceBytes:      {"uvm_device_bytes_total", counter, ofVM, deviceLabels, "Bytes of operations that did not fail."},
	deviceErrors:     {"uvm_device_errors_total", counter, ofVM, deviceLabels, "Operations that failed on the host."},
	deviceTime:       {"uvm_device_operation_duration_seconds", histogram, ofVM, deviceLabels, "How long operations took on the host, with its native form in powers of two; only where the VM takes times. The sum is unknown (NaN)."},
	virtioInterrupts: {"uvm_virtio_interrupts_total", counter, ofVM, []string{"device", "kind"}, "Interrupts of a virtio device."},
	virtioDropped:    {"uvm_virtio_dropped_frames_total", counter, ofVM, deviceLabels, "Frames that a virtio net could not pass on."},
	bootPhase:        {"uvm_boot_phase_duration_seconds", histogram, ofAll, []string{"phase"}, "How long each phase of a start took, and all of it (total); each VM counts once, when it is first seen."},
	scrapeVMs:        {"uvm_scrape_vms", gauge, ofAll, nil, "VMs that there were at this scrape, answering or not."},
	scrapeErrors:     {"uvm_scrape_errors_total", counter, ofAll, []string{"reason"}, "What went wrong at scrapes."},
	scrapeTime:       {"uvm_scrape_duration_seconds", gauge, ofAll, nil, "How long this scrape took."},
}

var deviceLabels = []string{"device", "kind", "op"}

func (f *family) allLabels() []string {
	return append(append([]string{}, groupLabels[f.of]...), f.labels...)
}

func (f *family) desc() *prometheus.Desc {
	return prometheus.NewDesc(f.name, f.help, f.allLabels(), nil)
}
