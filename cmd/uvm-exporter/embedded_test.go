package main

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/uvm-monitor/uvm/internal/testutil"
	"github.com/uvm-monitor/uvm/meter"
	"github.com/uvm-monitor/uvm/metrics"
	"github.com/uvm-monitor/uvm/vmm"
)

// TestEmbedded has VMs of this process start, run, end and close while they are scraped without a pause.
func TestEmbedded(t *testing.T) {
	testutil.RequireKVM(t)
	testutil.Watchdog(t)
	testutil.CheckFDs(t)
	checkGoroutines(t)
	vms := metrics.NewSet()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(metrics.NewCollector(vms.Samples))
	ctx, stop := context.WithCancel(t.Context())
	var scrapers, all sync.WaitGroup
	for range 2 {
		scrapers.Go(func() {
			for ctx.Err() == nil {
				if _, err := reg.Gather(); err != nil {
					t.Errorf("Gather = %v", err)
					return
				}
			}
		})
	}
	for i := range 6 {
		all.Go(func() {
			id := strconv.Itoa(i)
			vm, err := vmm.New(vmm.Config{Kernel: guests + "spin.hvt", Memory: 4 << 20, Meter: meter.New(true), Timing: true})
			if err != nil {
				t.Error(err)
				return
			}
			defer vm.Close()
			if err := vms.Add(metrics.Labels{ID: id, Kernel: "spin.hvt"}, vm); err != nil {
				t.Error(err)
			}
			running, end := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() { defer close(done); vm.Run(running) }()
			testutil.Until(t, "the VM's processor time", func() bool { return vm.Stats().VCPUs[0].CPU > 0 })
			end()
			<-done
			vm.Close()
			vm.Stats() // a scrape finds it closed, too
			vms.Remove(id)
		})
	}
	all.Wait()
	stop()
	scrapers.Wait()
	m, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m {
		switch f.GetName() {
		case "uvm_scrape_vms":
			if n := f.GetMetric()[0].GetGauge().GetValue(); n != 0 {
				t.Errorf("uvm_scrape_vms = %v; want 0", n)
			}
		case "uvm_boot_phase_duration_seconds":
			for _, p := range f.GetMetric() {
				if n := p.GetHistogram().GetSampleCount(); p.GetLabel()[0].GetValue() == "total" && (n == 0 || n > 6) {
					t.Errorf("%d starts in the histogram; want 1 to 6", n)
				}
			}
		}
	}
}
