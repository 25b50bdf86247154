package lab

import (
	"fmt"
	"path"
	"strings"
	"sync"
	"testing"
)

// tree holds the events of a test program, for each test its own, until
// replay has turned them into subtests. One goroutine adds while another
// replays, so that a subtest takes as long outside as it does inside; those
// that run in parallel inside come one after the other outside.
type tree struct {
	mu     sync.Mutex
	cond   sync.Cond
	root   *node
	nodes  map[string]*node
	closed bool
}

// node is a test; the root is the package.
type node struct {
	tree  *tree
	name  string // full, as inside
	items []item // what replay has not seen yet
}

// item is an event, or the start of a child.
type item struct {
	testEvent
	child *node
}

func newTree() *tree {
	tr := &tree{nodes: map[string]*node{}}
	tr.cond.L = &tr.mu
	tr.root = &node{tree: tr}
	tr.nodes[""] = tr.root
	return tr
}

// add appends an event to its test.
func (tr *tree) add(e testEvent) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	n := tr.node(e.Test)
	n.items = append(n.items, item{testEvent: e})
	tr.cond.Broadcast()
}

// node finds a test, or makes it a child of the one that its name says. Names
// of subtests may contain slashes that are no levels.
func (tr *tree) node(name string) *node {
	if n := tr.nodes[name]; n != nil {
		return n
	}
	parent := tr.root
	for up := path.Dir(name); up != "." && up != "/"; up = path.Dir(up) {
		if n := tr.nodes[up]; n != nil {
			parent = n
			break
		}
	}
	n := &node{tree: tr, name: name}
	tr.nodes[name] = n
	parent.items = append(parent.items, item{child: n})
	return n
}

// close says that no event follows.
func (tr *tree) close() {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.closed = true
	tr.cond.Broadcast()
}

// next waits for the next item; there is none after close.
func (n *node) next() (item, bool) {
	n.tree.mu.Lock()
	defer n.tree.mu.Unlock()
	for len(n.items) == 0 && !n.tree.closed {
		n.tree.cond.Wait()
	}
	if len(n.items) == 0 {
		return item{}, false
	}
	it := n.items[0]
	n.items = n.items[1:]
	return it, true
}

// replay makes t what the test was inside, and returns the number of tests
// below it. It fails t if there was no verdict.
func (n *node) replay(t *testing.T) (tests int) {
	said := false // has the test said why it skips?
	for {
		it, ok := n.next()
		if !ok {
			t.Errorf("no verdict from inside the lab: the test program ended in the middle of %s", n.label())
			return tests
		}
		if it.child != nil {
			tests++
			name := strings.TrimPrefix(strings.TrimPrefix(it.child.name, n.name), "/")
			t.Run(name, func(t *testing.T) { it.child.replay(t) })
			continue
		}
		switch it.Action {
		case "output":
			if !framing(it.Output) {
				fmt.Fprint(t.Output(), it.Output)
				said = true
			}
		case "pass":
			n.finish(t, it)
			return tests
		case "fail":
			n.finish(t, it)
			t.Fail()
			return tests
		case "skip":
			n.finish(t, it)
			if n != n.tree.root {
				t.Errorf("skipped inside the lab, where everything should run; mend what the test misses, or name it in Job.Skips")
			} else if !said {
				t.Error("the test program ran nothing")
			}
			return tests
		}
	}
}

func (n *node) label() string {
	if n.name == "" {
		return "its tests"
	}
	return n.name
}

// finish notes how long the test took inside: for tests that ran in parallel
// the outer duration means nothing.
func (n *node) finish(t *testing.T, it item) {
	if n != n.tree.root {
		t.Attr("lab", fmt.Sprintf("%.2fs", it.Elapsed))
	}
}

// framing says that a line is package testing's own.
func framing(line string) bool {
	line = strings.TrimLeft(line, " ")
	for _, p := range []string{"=== ", "--- PASS: ", "--- FAIL: ", "--- SKIP: "} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return line == "PASS\n" || line == "FAIL\n"
}
