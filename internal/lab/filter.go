package lab

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// runFilter is what go test -run asks for, an element for each level of
// subtests; nil asks for everything.
type runFilter []*regexp.Regexp

// runPattern reads the flag. A pattern with alternatives or brackets is taken
// to select everything: the lab then does more than is reported.
func runPattern() runFilter {
	f := flag.Lookup("test.run")
	if f == nil {
		return nil
	}
	return parsePattern(f.Value.String())
}

func parsePattern(pattern string) runFilter {
	if pattern == "" || strings.ContainsAny(pattern, `|[]()\`) {
		return nil
	}
	var filter runFilter
	for part := range strings.SplitSeq(pattern, "/") {
		re, err := regexp.Compile(part)
		if err != nil {
			return nil
		}
		filter = append(filter, re)
	}
	return filter
}

// selects says whether the test of that name, or one below it, may run.
func (f runFilter) selects(name string) bool {
	for i, part := range strings.Split(name, "/") {
		if i < len(f) && !f[i].MatchString(rewrite(part)) {
			return false
		}
	}
	return true
}

// inner is the pattern for what is below the test of that name.
func (f runFilter) inner(name string) string {
	depth := strings.Count(name, "/") + 1
	var parts []string
	for ; depth < len(f); depth++ {
		parts = append(parts, f[depth].String())
	}
	return strings.Join(parts, "/")
}

// rewrite is what package testing does to names.
func rewrite(name string) string { return strings.ReplaceAll(name, " ", "_") }

// noteInputs lets the go command know what the result depends on, so that it
// does not take a cached one after a change: it notes which directories of the
// module a test lists.
func noteInputs(root string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if name := d.Name(); path != root && (strings.HasPrefix(name, ".") || path == filepath.Join(root, "bin")) {
			return filepath.SkipDir
		}
		_, _ = os.ReadDir(path)
		return nil
	})
}
