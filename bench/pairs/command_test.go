package main

import (
	"slices"
	"strings"
	"testing"
)

func TestSplitWords(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{"  a  b\tc\n", []string{"a", "b", "c"}},
		{"'a b' c", []string{"a b", "c"}},
		{`"a \"b\" \n" c`, []string{`a "b" \n`, "c"}},
		{`a\ b '\'`, []string{"a b", `\`}},
		{"a '' b", []string{"a", "", "b"}},
		{`x"y"'z'`, []string{"xyz"}},
	} {
		if got, err := splitWords(c.in); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("splitWords(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{"'a", `"a`, `a\`} {
		if got, err := splitWords(in); err == nil {
			t.Errorf("splitWords(%q) = %q; want an error", in, got)
		}
	}
}

func TestParseCommand(t *testing.T) {
	t.Setenv("PAIRS_TEST", "old")
	c, err := parseCommand("best one")
	if err == nil {
		t.Fatalf("parseCommand of an unknown program = %+v; want an error", c)
	}
	c, err = parseCommand("true: PAIRS_TEST=new /bin/sh -c 'exit 0'")
	if err != nil {
		t.Fatal(err)
	}
	if c.label != "true" || c.path != "/bin/sh" || !slices.Equal(c.argv, []string{"/bin/sh", "-c", "exit 0"}) {
		t.Errorf("parseCommand() = %q, %q, %q", c.label, c.path, c.argv)
	}
	if !slices.Contains(c.env, "PAIRS_TEST=new") || slices.Contains(c.env, "PAIRS_TEST=old") {
		t.Error("parseCommand() did not replace an environment variable")
	}
	if c, err = parseCommand("/bin/sh -c true"); err != nil || c.label != "sh" {
		t.Errorf("parseCommand() without label = %q, %v; want sh", c.label, err)
	}
	for _, in := range []string{"", "label:", "A=b", "label: A=b"} {
		if c, err := parseCommand(in); err == nil {
			t.Errorf("parseCommand(%q) = %q; want an error", in, c.argv)
		}
	}
}

func TestRunReportsStderr(t *testing.T) {
	sp, err := newSpawner()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cmd  string
		want []string // in the error; none: no error
	}{
		{"/bin/sh -c 'echo a long message >&2; exit 3'", []string{"status 3", "a long message"}},
		{"/bin/sh -c 'echo short >&2; kill -9 $$'", []string{"signal 9", "\nshort"}},
		{"/bin/sh -c 'exit 4'", []string{"status 4", "(nothing)"}},
		{"/bin/sh -c 'echo shown nowhere'", nil},
	} {
		cmd, err := parseCommand(c.cmd)
		if err != nil {
			t.Fatal(err)
		}
		s, err := sp.run(&cmd)
		if len(c.want) == 0 && (err != nil || s.wall <= 0) {
			t.Errorf("run(%s) = %+v, %v; want a time", c.cmd, s, err)
		}
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("run(%s) = %v; want an error with %q", c.cmd, err, w)
			}
		}
		if err != nil && strings.HasSuffix(err.Error(), "message") != strings.Contains(c.cmd, "message") {
			t.Errorf("run(%s) = %v; quotes an earlier command", c.cmd, err)
		}
	}
}
