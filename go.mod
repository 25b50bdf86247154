module github.com/uvm-monitor/uvm

go 1.26.0

require (
	github.com/spf13/pflag v1.0.10
	golang.org/x/arch v0.32.0
	golang.org/x/sys v0.45.0
)
