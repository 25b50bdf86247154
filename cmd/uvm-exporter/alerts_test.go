package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const alertsFile = "../../docs/alerts.yml"

// alerts are the expressions of docs/alerts.yml by the names of the alerts.
func alerts(t testing.TB) map[string]string {
	t.Helper()
	text, err := os.ReadFile(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, a := range regexp.MustCompile(`(?m)^  - alert: (\w+)\n    expr: (.*)$`).FindAllStringSubmatch(string(text), -1) {
		m[a[1]] = a[2]
	}
	if n := strings.Count(string(text), "alert: "); n == 0 || n != len(m) {
		t.Fatalf("%s has %d alerts; found %d", alertsFile, n, len(m))
	}
	return m
}

func TestAlertMetrics(t *testing.T) {
	names := documented(t)
	for alert, expr := range alerts(t) {
		for _, name := range metricName.FindAllString(expr, -1) {
			if !slices.Contains(names, name) {
				t.Errorf("%s: no metric %q", alert, name)
			}
		}
	}
}

// checkAlerts runs all of them: without the comparison each has data, and the one about a VM that does not answer has it
// when the VM does not answer.
func checkAlerts(t *testing.T, p *server, vm *live) {
	t.Helper()
	all := alerts(t)
	comparison := regexp.MustCompile(` (==|>) [0-9.]+( \* .*)?$`)
	for alert, expr := range all {
		p.query(t, expr)
		operand := comparison.ReplaceAllString(expr, "")
		if operand == expr {
			t.Errorf("%s compares nothing: %s", alert, expr)
		}
		p.until(t, operand, func(p []point) bool { return len(p) > 0 })
	}
	stuck := all["UvmVMDoesNotAnswer"]
	if got := p.query(t, stuck); len(got) != 0 {
		t.Errorf("%s = %v; want nothing", stuck, got)
	}
	if err := vm.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.until(t, stuck, func(p []point) bool { return len(p) == 1 && p[0].labels["name"] == "compute" })
	p.until(t, "up and on () (uvm_vm_up == 0)", is(1)) // the scrape itself has not failed
	p.until(t, all["UvmScrapeErrors"], func(p []point) bool { return len(p) == 1 && p[0].labels["reason"] == "silent" })
	if err := vm.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.until(t, stuck, func(p []point) bool { return len(p) == 0 })
}
