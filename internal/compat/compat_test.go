package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDiff(t *testing.T) {
	for _, tc := range []struct {
		name, a, b string
		want       []string
	}{
		{"same", "a\nb\n", "a\nb\n", nil},
		{"both empty", "", "", nil},
		{"one line changed", "a\nb\nc\n", "a\nx\nc\n", []string{"-b", "+x"}},
		{"inserted", "a\nc\n", "a\nb\nc\n", []string{"+b"}},
		{"removed at the end", "a\nb\n", "a\n", []string{"-b"}},
		{"all new", "", "a\nb\n", []string{"+a", "+b"}},
		{"newline at the end", "a\n", "a", []string{"-a", "+a (no newline)"}},
		{"repeated", "a\na\n", "a\n", []string{"-a"}},
		{"too long", strings.Repeat("x\n", maxDiffLines+1), "x\n", []string{"-(too long to compare)", "+(too long to compare)"}},
	} {
		if got := diff(tc.a, tc.b); !slices.Equal(got, tc.want) {
			t.Errorf("%s: diff(…) = %q; want %q", tc.name, got, tc.want)
		}
	}
}

func TestNormalise(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"[5] Slept for 1000219836 ns", "[5] Slept for N ns"},
		{"with MAC: 829154620c64\n", "with MAC: X\n"},
		{"MAC: 829154620c6", "MAC: 829154620c6"},
		{"tscclock_init(): tsc_freq=2596124000 tsc_mult=1654376792 tsc_shift=32", "tscclock_init(): tsc_freq=N"},
		{"DIR/core.solo5-hvt.26418", "DIR/core.solo5-hvt.PID"},
		{"trap: cr2=0x400000000 rip=0x104022", "trap: cr2=0x400000000 rip=0x104022"},
	} {
		if got := normalise(tc.in); got != tc.want {
			t.Errorf("normalise(%q) = %q; want %q", tc.in, got, tc.want)
		}
	}
}

func TestJudge(t *testing.T) {
	both := []pinged{{addr: "a", sent: 200, answered: 200}, {addr: "b", sent: 200, answered: 200}}
	lost := []pinged{{addr: "a", sent: 200, answered: 199}}
	for _, tc := range []struct {
		name string
		want expect
		out  outcome
		core bool
		v    verdict
	}{
		{"success", success, outcome{stdout: "SUCCESS\n"}, false, pass},
		{"success on stderr", success, outcome{stderr: "SUCCESS\n"}, false, pass},
		{"status", success, outcome{status: 1, stdout: "SUCCESS\n"}, false, fail},
		{"text", success, outcome{stdout: "FAILURE\n"}, false, fail},
		{"abort", aborted, outcome{status: 255, stdout: "Solo5: ABORT: x\n"}, false, pass},
		{"not quiet", expect{absent: "Solo5:"}, outcome{stdout: "Solo5: x\n"}, false, fail},
		{"quiet", expect{absent: "Solo5:"}, outcome{}, false, pass},
		{"flaky", expect{text: []string{"SUCCESS"}, flaky: "slept"}, outcome{status: 1, stdout: "slept too little"}, false, skipped},
		{"time limit", expect{}, outcome{timedOut: true}, false, fail},
		{"not started", expect{}, outcome{err: os.ErrNotExist}, false, fail},
		{"pings", expect{}, outcome{pings: both}, false, pass},
		{"ping lost", expect{}, outcome{pings: lost}, false, fail},
		{"no ping", expect{}, outcome{pings: []pinged{{problem: "no summary"}}}, false, fail},
		{"no core", expect{core: true}, outcome{}, false, fail},
		{"core", expect{core: true}, outcome{}, true, pass},
	} {
		if got := tc.want.judge(&tc.out, tc.core); got != tc.v {
			t.Errorf("%s: judge = %s; want %s", tc.name, got, tc.v)
		}
	}
}

func TestParsePing(t *testing.T) {
	for _, tc := range []struct {
		in             string
		sent, answered int
		ok             bool
	}{
		{"--- 10.0.0.2 ping statistics ---\n200 packets transmitted, 200 received, 0% packet loss, time 231ms\n", 200, 200, true},
		{"5 packets transmitted, 0 packets received, 100% packet loss", 5, 0, true},
		{"7 packets transmitted, 3 received, +2 errors, 57% packet loss", 7, 3, true},
		{"ping: connect: Network is unreachable", 0, 0, false},
		{"99999999999999999999 packets transmitted, 1 received", 0, 1, false},
	} {
		p, ok := parsePing(tc.in)
		if ok != tc.ok || ok && (p.sent != tc.sent || p.answered != tc.answered) {
			t.Errorf("parsePing(%q) = %d, %d, %v; want %d, %d, %v", tc.in, p.sent, p.answered, ok, tc.sent, tc.answered, tc.ok)
		}
	}
}

func TestCases(t *testing.T) {
	names := map[string]bool{}
	for _, c := range allCases() {
		if names[c.name] {
			t.Errorf("two tests are called %q", c.name)
		}
		names[c.name] = true
		if c.kernel() == "" {
			t.Errorf("%s: no kernel in %q", c.name, c.line)
		}
		for _, full := range []bool{false, true} {
			line := strings.Join(c.words("/scratch", full), " ")
			if strings.ContainsAny(line, "{}") {
				t.Errorf("%s: placeholder left in %q", c.name, line)
			}
			if got, want := strings.Contains(line, "limit"), full && strings.HasSuffix(c.line, "limit"); got != want {
				t.Errorf("%s: limit in %q = %v; want %v", c.name, line, got, want)
			}
		}
		if (c.short != "") != (len(c.pings) > 0) {
			t.Errorf("%s: %d pings and short command line %q", c.name, len(c.pings), c.short)
		}
		for _, img := range c.images {
			if !strings.Contains(c.line, "{dir}/"+img.name) {
				t.Errorf("%s: image %s is not used", c.name, img.name)
			}
		}
	}
}

func TestUnknownBinaries(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"tests/test_a/test_a.hvt", "tests/test_b/test_b.hvt", "tests/test_b/test_b.spt"} {
		path := filepath.Join(dir, f)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := unknownBinaries(dir, []testCase{simple("a", "", success)})
	if want := []string{"test_b/test_b.hvt"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("unknownBinaries = %q, %v; want %q", got, err, want)
	}
}

func TestParseFlags(t *testing.T) {
	for _, args := range [][]string{{}, {"-solo5", "x", "y"}, {"-solo5", "x", "-timeout", "0"}, {"-nonsense"}} {
		if _, _, err := parseFlags(args); err == nil {
			t.Errorf("parseFlags(%q) = nil error", args)
		}
	}
	s, out, err := parseFlags([]string{"-solo5", "x", "-full", "-out", "r.md"})
	if err != nil || !s.full || out != "r.md" || !filepath.IsAbs(s.solo5) || !filepath.IsAbs(s.uvm) || s.limit != time.Minute {
		t.Errorf("parseFlags = %+v, %q, %v", s, out, err)
	}
}

// script is a stand-in for a tender.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "solo5-hvt")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTry(t *testing.T) {
	work := t.TempDir()
	b := &bench{settings: settings{limit: 5 * time.Second}, tests: work, scratch: filepath.Join(work, "scratch")}
	c := testCase{line: "{dir}/a.img test_x.hvt", images: []image{{"a.img", 512}}, want: success}

	o := b.try(c, script(t, `stat -c %s "$1"; echo "$1 $2" >&2; echo SUCCESS`))
	if o.verdict != pass || o.stdout != "512\nSUCCESS\n" || o.stderr != "DIR/a.img test_x.hvt\n" {
		t.Errorf("try = %+v; want a pass", o)
	}
	if _, err := os.Stat(b.scratch); !os.IsNotExist(err) {
		t.Errorf("scratch directory after try: %v; want it gone", err)
	}
	if o := b.try(c, script(t, "kill -9 $$")); o.status != 128+int(syscall.SIGKILL) || o.verdict != fail {
		t.Errorf("try of a killed program = %+v; want status 137", o)
	}
	if o := b.try(c, "/nonexistent"); o.err == nil || o.verdict != fail {
		t.Errorf("try of nothing = %+v; want an error", o)
	}
	b.limit = 100 * time.Millisecond
	if o := b.try(c, script(t, "exec sleep 60")); !o.timedOut || o.verdict != fail || o.seconds > 4 {
		t.Errorf("try of a sleeper = %+v; want the time limit", o)
	}
}

func TestCapture(t *testing.T) {
	var c capture
	for range 3 {
		if n, err := c.Write(make([]byte, maxCapture/2)); n != maxCapture/2 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if s := c.String(); !strings.HasSuffix(s, "[524288 more bytes]\n") {
		t.Errorf("String ends with %q", s[maxCapture:])
	}
}
