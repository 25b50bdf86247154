// Package metrics gives the statistics of VMs to Prometheus. A program that embeds package vmm registers a Collector and
// puts its VMs into a Set; cmd/uvm-exporter does it for the VMs of uvm. docs/metrics.md lists all metrics.
//
// It is no part of the core, and nothing that runs as uvm links it.
package metrics
