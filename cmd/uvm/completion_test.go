package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// script is what `uvm completion` prints for a shell.
func script(t *testing.T, shell string) string {
	t.Helper()
	got := uvm(t, "completion", shell)
	if got.status != 0 || got.stderr != "" {
		t.Fatalf("uvm completion %s = %+v; want status 0", shell, got)
	}
	return got.stdout
}

// TestBashCompletion lets bash complete words and looks at what it offers.
func TestBashCompletion(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"app.hvt", "a kernel.hvt", "bash.txt", "star*"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file := writeFile(t, "uvm.bash", []byte(script(t, "bash")))
	bash := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("bash", append([]string{"--noprofile", "--norc"}, args...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("bash %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	if out := bash("-n", file); out != "" {
		t.Errorf("bash -n = %q; want nothing", out)
	}
	// The completion function has to be the one registered for uvm.
	if out := bash("-c", `source "$0"; complete -p uvm`, file); !strings.Contains(out, "-F _uvm uvm") {
		t.Errorf("complete -p uvm = %q; want the function _uvm", out)
	}
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	files := []string{"a kernel.hvt", "app.hvt", "bash.txt", "star*"}
	for _, tt := range []struct {
		words []string // after uvm; the last one is being completed
		want  []string
	}{
		{[]string{""}, names},
		{[]string{"ve"}, []string{"version"}},
		{[]string{"zz"}, nil},
		{[]string{"run", ""}, files},
		{[]string{"run", "app"}, []string{"app.hvt"}},
		{[]string{"run", "a"}, []string{"a kernel.hvt", "app.hvt"}},
		{[]string{"run", "-"}, commandFlags("run")},
		{[]string{"run", "--boot-s"}, []string{"--boot-summary"}},
		{[]string{"run", "app.hvt", "--me"}, []string{"--memory"}},
		{[]string{"run", "app.hvt", "--", "--me"}, nil},
		{[]string{"run", "app.hvt", "--", "a"}, nil},
		{[]string{"inspect", "--"}, []string{"--json", "--help"}},
		{[]string{"inspect", "app"}, []string{"app.hvt"}},
		{[]string{"doctor", "--j"}, []string{"--json"}},
		{[]string{"version", "-"}, []string{"--help"}},
		{[]string{"completion", ""}, []string{"bash", "zsh", "fish"}},
		{[]string{"completion", "ba"}, []string{"bash"}},
		{[]string{"completion", "-"}, []string{"--help"}},
		{[]string{"bogus", "-"}, nil},
	} {
		out := bash(append([]string{"-c", `source "$0"; COMP_WORDS=(uvm "$@") COMP_CWORD=$#; COMPREPLY=(); _uvm
			for r in "${COMPREPLY[@]}"; do printf '%s\n' "$r"; done`, file}, tt.words...)...)
		got := slices.Sorted(strings.FieldsFuncSeq(out, func(r rune) bool { return r == '\n' }))
		want := slices.Sorted(slices.Values(tt.want))
		if !slices.Equal(got, want) {
			t.Errorf("completion of uvm %q = %q; want %q", tt.words, got, want)
		}
	}
}

// TestOtherCompletions reads the scripts for shells that the host may lack, and
// has those that it has check the syntax.
func TestOtherCompletions(t *testing.T) {
	for _, shell := range []string{"zsh", "fish"} {
		text := script(t, shell)
		for _, c := range commands() {
			if !strings.Contains(text, c.help) {
				t.Errorf("uvm completion %s = %q; want the help of %s", shell, text, c.name)
			}
			for _, flag := range commandFlags(c.name) {
				line, want := "", c.name+") if [[ $PREFIX == -* ]]; then compadd -- "
				if shell == "fish" {
					want, flag = "seen_subcommand_from "+c.name+"' -l ", strings.TrimPrefix(flag, "--")
					want += flag + " "
				}
				for l := range strings.Lines(text) {
					if strings.Contains(strings.TrimSpace(l)+" ", want) {
						line = l
					}
				}
				if !slices.Contains(strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ';' || r == '\n' }), flag) {
					t.Errorf("uvm completion %s: line for %s of %s = %q; want %q in it", shell, flag, c.name, line, flag)
				}
			}
		}
		if strings.Contains(text, "%!") {
			t.Errorf("uvm completion %s = %q; want no formatting error", shell, text)
		}
		if path, err := exec.LookPath(shell); err == nil {
			if out, err := exec.Command(path, "-n", writeFile(t, "uvm."+shell, []byte(text))).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s -n = %s, %v; want nothing", shell, out, err)
			}
		}
	}
}
