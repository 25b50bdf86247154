package main

import (
	"strings"
	"testing"
)

// entry is one mapping as the kernel prints it, with the fields that matter.
func entry(header, rss, flags string) string {
	return header + "\nSize:                  4 kB\nRss:            " + rss + " kB\nPss:                   1 kB\nVmFlags: " + flags + "\n"
}

func TestParseSmaps(t *testing.T) {
	in := entry("00400000-004f8000 r-xp 00000000 fd:00 9978669                            /usr/bin/my monitor", "928", "rd ex") +
		entry("7f8f88400000-7f8f88500000 rw-p 00000000 00:00 0 ", "24", "rd wr mr mw me ac nr") +
		entry("7f8f8c600000-7f8f8e600000 rw-p 00000000 00:00 0 ", "4", "rd wr nh") +
		entry("7ffd1545e000-7ffd1547f000 rw-p 00000000 00:00 0                          [stack]", "16", "rd wr gd")
	want := []mapping{
		{start: 0x400000, end: 0x4f8000, perms: "r-xp", inode: 9978669, path: "/usr/bin/my monitor", rss: 928},
		{start: 0x7f8f88400000, end: 0x7f8f88500000, perms: "rw-p", rss: 24},
		{start: 0x7f8f8c600000, end: 0x7f8f8e600000, perms: "rw-p", rss: 4, noHuge: true},
		{start: 0x7ffd1545e000, end: 0x7ffd1547f000, perms: "rw-p", path: "[stack]", rss: 16},
	}
	got, err := parseSmaps(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("parseSmaps() = %d mappings; want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("parseSmaps()[%d] = %+v; want %+v", i, got[i], want[i])
		}
	}
}

func TestParseSmapsErrors(t *testing.T) {
	for _, in := range []string{
		"Rss: 4 kB\n",
		"400000 r-xp 0 00:00 0\n",
		"400000-zz r-xp 0 00:00 0\n",
		"400000-500000 r-xp 0\n",
		"400000-500000 r-xp 0 00:00 x\n",
		"400000-500000 r-xp 0 00:00 0\nRss: many kB\n",
	} {
		if got, err := parseSmaps(strings.NewReader(in)); err == nil {
			t.Errorf("parseSmaps(%q) = %v; want an error", in, got)
		}
	}
}

func TestParseStatus(t *testing.T) {
	const in = "Name:\tuvm\nRssAnon:\t     764 kB\nRssFile:\t    2080 kB\nRssShmem:\t       8 kB\nThreads:\t5\n"
	if got, err := parseStatus(strings.NewReader(in), "RssAnon", "RssFile", "RssShmem"); err != nil || got != 2852 {
		t.Errorf("parseStatus() = %d, %v; want 2852, nil", got, err)
	}
	if got, err := parseStatus(strings.NewReader("Name:\tuvm\n"), "RssAnon"); err == nil {
		t.Errorf("parseStatus() of a process that has no RssAnon = %d; want an error", got)
	}
}

const (
	mib = 1 << 20
	top = 0x7f0000000000 // where mmap puts mappings
)

// anon is an anonymous mapping of size MiB at top + at MiB.
func anon(at, size uint64, rss int64) mapping {
	return mapping{start: top + at*mib, end: top + (at+size)*mib, perms: "rw-p", rss: rss}
}

func TestFindGuest(t *testing.T) {
	goTable := anon(200, 64, 4)
	goTable.noHuge = true
	shared := anon(300, 64, 40)
	shared.inode, shared.path = 1036, "/dev/zero (deleted)"
	arena := mapping{start: 0xc000000000, end: 0xc000000000 + 64*mib, perms: "rw-p"}
	file := anon(400, 64, 40)
	file.inode, file.path = 7, "/usr/lib/libc.so"

	for _, c := range []struct {
		name        string
		maps        []mapping
		first, last int // last < 0: an error
	}{
		{"alone", []mapping{anon(0, 8, 0), anon(10, 64, 0)}, 1, 1},
		{"split by mprotect", []mapping{anon(10, 1, 0), anon(11, 2, 0), anon(13, 61, 0)}, 0, 2},
		{"beside other memory", []mapping{anon(6, 4, 0), anon(10, 1, 0), anon(11, 63, 0), anon(74, 3, 0)}, 1, 2},
		{"shared", []mapping{shared}, 0, 0},
		{"besides Go's own", []mapping{arena, anon(10, 64, 0), goTable}, 1, 1},
		{"a hole in it", []mapping{anon(10, 1, 0), anon(12, 63, 0)}, 0, -1},
		{"only a file", []mapping{file}, 0, -1},
		{"only Go's own", []mapping{arena, goTable}, 0, -1},
		{"two of them", []mapping{anon(10, 64, 0), anon(80, 64, 0)}, 0, -1},
		{"none", nil, 0, -1},
	} {
		first, last, err := findGuest(c.maps, 64*mib)
		if c.last < 0 {
			if err == nil {
				t.Errorf("%s: findGuest() = %d, %d; want an error", c.name, first, last)
			}
		} else if err != nil || first != c.first || last != c.last {
			t.Errorf("%s: findGuest() = %d, %d, %v; want %d, %d", c.name, first, last, err, c.first, c.last)
		}
	}
}

func TestAccount(t *testing.T) {
	in := entry("00400000-004f8000 r-xp 00000000 fd:00 99    /usr/bin/uvm", "900", "") +
		entry("004f8000-0062a000 r--p 000f8000 fd:00 99    /usr/bin/uvm", "1000", "") +
		entry("0062a000-0063b000 rw-p 0022a000 fd:00 99    /usr/bin/uvm", "60", "") +
		entry("0063b000-00671000 rw-p 00000000 00:00 0 ", "50", "") + // zero-initialised variables
		entry("9fc62c00000-9fc63000000 rw-p 00000000 00:00 0 ", "400", "") +
		entry("7f8f88400000-7f8f88500000 rw-p 00000000 00:00 0 ", "24", "nr") + // guest, 2 MiB in two parts
		entry("7f8f88500000-7f8f88600000 r--p 00000000 00:00 0 ", "8", "nr") +
		entry("7f8fd2e2c000-7f8fd2e2f000 rw-s 00000000 00:0f 1036   anon_inode:kvm-vcpu:0", "12", "") +
		entry("7ffd1545e000-7ffd1547f000 rw-p 00000000 00:00 0      [stack]", "16", "")
	maps, err := parseSmaps(strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	got, err := account(maps, 2470, 2*mib)
	if err != nil {
		t.Fatal(err)
	}
	want := usage{Text: 900, Data: 1110, Heap: 400, Other: 28, Total: 2438, Guest: 32}
	if *got != want {
		t.Errorf("account() = %+v; want %+v", *got, want)
	}
}
