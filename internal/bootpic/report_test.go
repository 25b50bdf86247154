package bootpic

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// report is a report with marks, written as "source label time".
func report(kernel string, marks ...string) []byte {
	var b strings.Builder
	name, _ := json.Marshal(kernel)
	fmt.Fprintf(&b, `{"version":1,"kernel":%s,"outcome":{"kind":"exit","status":3},"marks":[`, name)
	for i, m := range marks {
		w := strings.Fields(m)
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"source":%q,"label":%q,"since_exec_ns":%s,"cpu_ns":1}`, w[0], w[1], w[2])
	}
	b.WriteString(`],"dropped_marks":2,"traps":0}`)
	return []byte(b.String())
}

var good = []string{"monitor exec 0", "monitor kvm-open 1000", "monitor first-entry 3000", "guest A 3500", "guest 0x00 3600", "monitor exit 9000"}

func TestParse(t *testing.T) {
	got, err := parse(report("k", good...))
	want := &Report{
		Kernel: "k", Outcome: "exit, status 3", Dropped: 2,
		Phases: []Phase{{"kvm-open", 0, 1000}, {"first-entry", 1000, 2000}, {"guest", 3000, 6000}},
		Marks:  []Mark{{"A", 3500}, {"0x00", 3600}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parse = %+v, %v; want %+v", got, err, want)
	}
}

func TestBadReports(t *testing.T) {
	dir := t.TempDir()
	whole := report("k", good...)
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"empty":            {nil, "unexpected end"},
		"truncated":        {whole[:len(whole)/2], "unexpected end"},
		"no JSON":          {[]byte("boot"), "invalid character"},
		"another object":   {[]byte(`{"a":1}`), "its version is 0; want 1"},
		"another version":  {bytes.Replace(whole, []byte(`"version":1`), []byte(`"version":2`), 1), "its version is 2"},
		"an array":         {[]byte(`[1]`), "cannot unmarshal"},
		"no marks":         {report("k"), "0 marks of the monitor"},
		"one mark":         {report("k", "monitor exec 0"), "1 marks of the monitor"},
		"guest only":       {report("k", "guest A 0", "guest B 1"), "0 marks of the monitor"},
		"negative":         {report("k", "monitor exec -1", "monitor exit 2"), "is at -1 ns"},
		"too late":         {report("k", "monitor exec 0", "monitor exit 9223372036854775807"), "want 0 to"},
		"no number":        {report("k", "monitor exec 0", "monitor exit 1e300"), "cannot unmarshal"},
		"backwards":        {report("k", "monitor exec 5", "monitor exit 4"), "before the one in front"},
		"twice":            {report("k", "monitor exec 0", "monitor exec 4"), "is there twice"},
		"another's source": {report("k", "monitor exec 0", "x exit 4"), `the source "x"`},
		"many marks":       {report("k", append(good[:1:1], strings.Split(strings.Repeat("guest A 1\n", 1000), "\n")[:1000]...)...), "1001 marks"},
		"huge":             {bytes.Repeat([]byte(" "), mostBytes+1), "more than 4194304 bytes"},
	} {
		path := filepath.Join(dir, "report")
		os.WriteFile(path, tt.data, 0o600)
		if r, err := Open(path); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: Open = %+v, %v; want %q", name, r, err, tt.want)
		}
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open(none) = %v; want ErrNotExist", err)
	}
}

// element is an element of a picture.
type element struct {
	name, text string
	attr       map[string]string
}

// elements reads a picture. It is an error if the picture is no XML, has a number that is none, or an element that we do
// not draw.
func elements(svg []byte) (all []element, err error) {
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		switch e := token.(type) {
		case xml.StartElement:
			el := element{name: e.Name.Local, attr: map[string]string{}}
			if !strings.Contains(" svg rect text line path ", " "+el.name+" ") {
				return nil, fmt.Errorf("element %q", el.name)
			}
			for _, a := range e.Attr {
				if el.attr[a.Name.Local] = a.Value; strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
					return nil, fmt.Errorf("%s=%q", a.Name.Local, a.Value)
				}
			}
			all = append(all, el)
		case xml.CharData:
			if n := len(all); n > 0 {
				all[n-1].text += strings.TrimSuffix(string(e), "\n")
			}
		}
	}
}

// TestSVG: the bars lie where the times are, on one scale for all reports, and nothing lies outside.
func TestSVG(t *testing.T) {
	a, err := parse(report("/x/a.hvt", good...))
	if err != nil {
		t.Fatal(err)
	}
	b, err := parse(report("/x/b <&>\"'\x1b\u202e.hvt", "monitor exec 0", "monitor kvm-open 2000", "monitor odd 2500", "monitor first-entry 4000", "monitor exit 5000000000"))
	if err != nil {
		t.Fatal(err)
	}
	svg := SVG([]*Report{a, b})
	all, err := elements(svg)
	if err != nil {
		t.Fatalf("%v in %s", err, svg)
	}
	var bars [2][][2]float64
	var texts []string
	for _, e := range all {
		num := func(name string) float64 { v, _ := strconv.ParseFloat(e.attr[name], 64); return v }
		if e.name == "text" {
			texts = append(texts, e.text)
		}
		if num("x") < 0 || num("x")+num("width") > width || num("y") < 0 {
			t.Errorf("%+v lies outside the picture", e)
		}
		for i := range bars {
			if e.name == "rect" && e.attr["fill"] == colours[i] && num("x") >= left {
				bars[i] = append(bars[i], [2]float64{num("x"), num("width")})
			}
		}
	}
	// The axis ends at half as much again as the last start, 4000 ns; its length is the same for both.
	scale := (width - left - right) / 6000
	want := [2][][2]float64{
		{{left, 1000 * scale}, {left + 1000*scale, 2000 * scale}, {left + 3000*scale, 3000 * scale}},
		{{left, 2000 * scale}, {left + 2000*scale, 500 * scale}, {left + 2500*scale, 1500 * scale}, {left + 4000*scale, 2000 * scale}},
	}
	if fmt.Sprintf("%.1f", bars) != fmt.Sprintf("%.1f", want) {
		t.Errorf("bars = %.1f; want %.1f", bars, want)
	}
	joined := strings.Join(texts, "\n")
	for _, s := range []string{"b <&>\"'\ufffd\ufffd.hvt", "odd", "A 500 ns", "0x00 600 ns", "5.00 s", "and 2 more marks", "µs since uvm was started"} {
		if !strings.Contains(joined, s) {
			t.Errorf("texts = %q; want %q", joined, s)
		}
	}
}

func TestDuration(t *testing.T) {
	for ns, want := range map[int64]string{0: "0 ns", 999: "999 ns", 1000: "1.00 µs", 12345: "12.3 µs", 999999: "1000 µs", 1e6: "1.00 ms", 123456789: "123 ms", 5e9: "5.00 s", 3600e9: "3600 s"} {
		if got := Duration(ns); got != want {
			t.Errorf("Duration(%d) = %q; want %q", ns, got, want)
		}
	}
}

// FuzzReport: whatever a file holds, it is an error or becomes a picture that is well formed.
func FuzzReport(f *testing.F) {
	f.Add(report("k", good...))
	f.Add(report("<script>&\x00", "monitor exec 0", "monitor exit 0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse(data)
		if err != nil {
			return
		}
		r.Name = "x"
		for _, all := range [][]*Report{{r}, {r, r, r}} {
			svg := SVG(all)
			if _, err := elements(svg); err != nil || len(svg) > 1<<20 {
				t.Fatalf("%d bytes, %v: %s", len(svg), err, svg)
			}
		}
	})
}
