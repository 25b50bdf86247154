package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// command is one of the commands to be timed.
type command struct {
	label string
	path  string   // of the executable, found in $PATH, or of its copy
	orig  string   // path without a copy
	argv  []string // argv[0] as the user wrote it
	env   []string // whole environment
}

// parseCommand reads one COMMAND argument; see the package comment.
func parseCommand(s string) (command, error) {
	words, err := splitWords(s)
	if err != nil {
		return command{}, fmt.Errorf("command %q: %w", s, err)
	}
	c := command{env: os.Environ()}
	if len(words) > 0 && len(words[0]) > 1 && strings.HasSuffix(words[0], ":") {
		c.label, words = strings.TrimSuffix(words[0], ":"), words[1:]
	}
	for len(words) > 0 && isAssignment(words[0]) {
		c.env = append(c.env, words[0]) // the last one of a name counts, see unique
		words = words[1:]
	}
	if len(words) == 0 {
		return command{}, fmt.Errorf("command %q: no program named; expected [LABEL:] [NAME=VALUE...] PROGRAM [ARG...]", s)
	}
	c.env, c.argv = unique(c.env), words
	if c.path, err = exec.LookPath(words[0]); err != nil {
		return command{}, fmt.Errorf("command %q: %w (build it first, or give its path)", s, err)
	}
	c.orig = c.path
	if c.label == "" {
		c.label = filepath.Base(words[0])
	}
	return c, nil
}

// copyTo has the command run a new copy of its program, written in one call.
func (c *command) copyTo(path string) error {
	b, err := os.ReadFile(c.orig)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	c.path = path
	return os.WriteFile(path, b, 0o755)
}

// isAssignment says whether a word reads NAME=VALUE.
func isAssignment(w string) bool {
	name, _, ok := strings.Cut(w, "=")
	for i, r := range name {
		letter := r == '_' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return ok && name != ""
}

// unique keeps the last assignment of every name: of two, a program may take
// either.
func unique(env []string) []string {
	last := make(map[string]int)
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		last[name] = i
	}
	var out []string
	for i, e := range env {
		if name, _, _ := strings.Cut(e, "="); last[name] == i {
			out = append(out, e)
		}
	}
	return out
}

// splitWords splits s as a POSIX shell splits a line that has quotes and
// backslashes but no expansions (Shell Command Language, section 2.2).
func splitWords(s string) ([]string, error) {
	var (
		words []string
		word  strings.Builder
		open  bool // inside a word, though it may be empty yet
		quote rune // ' or ", 0 outside
	)
	rs := []rune(s)
	for i := 0; i < len(rs); i++ {
		switch r := rs[i]; {
		case quote == '\'' && r == quote, quote == '"' && r == quote:
			quote = 0
		case quote == '\'':
			word.WriteRune(r)
		case r == '\\':
			i++
			if i == len(rs) {
				return nil, errors.New("ends in a backslash; write \\\\ for a literal one")
			}
			if quote == '"' && !strings.ContainsRune("\"\\$`", rs[i]) {
				word.WriteRune(r)
			}
			word.WriteRune(rs[i])
			open = true
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == ' ' || r == '\t' || r == '\n':
			if open {
				words = append(words, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the quote %c is not closed", quote)
	}
	if open {
		words = append(words, word.String())
	}
	return words, nil
}
