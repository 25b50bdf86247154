package metrics_test

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/uvm-monitor/uvm/metrics"
	"github.com/uvm-monitor/uvm/vmm"
)

// embedded stands in for a *vmm.VM, which needs a KVM.
type embedded struct{}

func (embedded) Stats() vmm.Stats {
	return vmm.Stats{State: "running", VCPUs: []vmm.VCPUStats{{Exits: map[string]uint64{"IO": 7}}}}
}

func Example() {
	vms := metrics.NewSet()
	reg := prometheus.NewRegistry()
	reg.MustRegister(metrics.NewCollector(vms.Samples))

	if err := vms.Add(metrics.Labels{ID: "17", Name: "web", Kernel: "app.hvt"}, embedded{}); err != nil {
		fmt.Println(err)
	}
	defer vms.Remove("17")

	all, err := reg.Gather()
	if err != nil {
		fmt.Println(err)
	}
	for _, f := range all {
		if f.GetName() == "uvm_exits_total" {
			m := f.GetMetric()[0]
			for _, l := range m.GetLabel() {
				fmt.Print(l.GetName(), "=", l.GetValue(), " ")
			}
			fmt.Println(m.GetCounter().GetValue())
		}
	}
	// Output: kernel=app.hvt name=web reason=IO vm=17 7
}

var _ metrics.Source = (*vmm.VM)(nil)
