// Command uvm-report is `uvm boot-report`: it makes pictures of boot timelines. It is a program of its own so
// that a start of uvm does not pay for it.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/uvm-monitor/uvm/internal/bootpic"
)

// Exit statuses, as uvm's.
const (
	exitOK    = 0
	exitUsage = 125
	exitHost  = 126
)

func main() { os.Exit(run(os.Args[1:])) }

func fail(status int, format string, args ...any) int {
	fmt.Fprintf(os.Stderr, "uvm: "+format+"\n", args...)
	return status
}

func run(args []string) int {
	f := pflag.NewFlagSet("boot-report", pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {}
	output := f.StringP("output", "o", "", "write the picture to this `FILE`, as SVG; - is stdout")
	asJSON := f.Bool("json", false, "print the phases and the guest's marks as JSON")
	switch err := f.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Printf("Usage: uvm boot-report REPORT… -o FILE.svg\n\nMake a picture of boot timelines, which uvm run --boot-report has written.\n\n%s", f.FlagUsages())
		return exitOK
	case err != nil:
		return fail(exitUsage, "%v", err)
	case f.NArg() == 0:
		return fail(exitUsage, "no report given (usage: uvm boot-report REPORT… -o FILE.svg)")
	case f.NArg() > bootpic.MostReports:
		return fail(exitUsage, "%d reports: one picture shows at most %d", f.NArg(), bootpic.MostReports)
	case *output == "" && !*asJSON:
		return fail(exitUsage, "say where the picture goes, with -o FILE.svg, or --json")
	}
	var all []*bootpic.Report
	for _, path := range f.Args() {
		r, err := bootpic.Open(path)
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		all = append(all, r)
	}
	if *output != "" {
		if err := write(*output, bootpic.SVG(all)); err != nil {
			return fail(exitHost, "%v", err)
		}
	}
	if *asJSON {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err := e.Encode(all)
		if err == nil {
			_, err = os.Stdout.Write(b.Bytes())
		}
		if err != nil {
			return fail(exitHost, "%v", err)
		}
	}
	return exitOK
}

// write writes the whole picture or, where the disk is full, leaves what was there before.
func write(path string, data []byte) error {
	if info, err := os.Stat(path); path == "-" || err == nil && !info.Mode().IsRegular() {
		if path == "-" {
			_, err = os.Stdout.Write(data)
			return err
		}
		return os.WriteFile(path, data, 0o666) // a pipe, /dev/stdout
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".boot-report-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
