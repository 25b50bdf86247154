package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// mapping is one entry of /proc/PID/smaps (proc_pid_smaps(5)).
type mapping struct {
	start, end uint64
	perms      string // as "r-xp"
	inode      uint64 // 0 = anonymous
	path       string // file, or a name in brackets, or ""
	rss        int64  // KiB
	noHuge     bool   // MADV_NOHUGEPAGE
}

func (m *mapping) size() uint64 { return m.end - m.start }

// parseSmaps reads all mappings, in ascending order of their addresses.
func parseSmaps(r io.Reader) ([]mapping, error) {
	var maps []mapping
	in := bufio.NewScanner(r)
	for in.Scan() {
		key, rest, _ := strings.Cut(in.Text(), " ")
		if !strings.HasSuffix(key, ":") {
			m, err := parseHeader(key, rest)
			if err != nil {
				return nil, err
			}
			maps = append(maps, m)
			continue
		}
		if len(maps) == 0 {
			return nil, fmt.Errorf("smaps: %q before the first mapping", in.Text())
		}
		m := &maps[len(maps)-1]
		switch key {
		case "Rss:":
			kib, err := parseKiB(rest)
			if err != nil {
				return nil, fmt.Errorf("smaps: %q: %w", in.Text(), err)
			}
			m.rss = kib
		case "VmFlags:":
			m.noHuge = slices.Contains(strings.Fields(rest), "nh")
		}
	}
	return maps, in.Err()
}

// parseHeader reads "START-END PERMS OFFSET DEVICE INODE PATH"; key is the range.
func parseHeader(key, rest string) (mapping, error) {
	bad := func(err error) (mapping, error) {
		return mapping{}, fmt.Errorf("smaps: line %q is no mapping: %v", key+" "+rest, err)
	}
	from, to, _ := strings.Cut(key, "-")
	start, err := strconv.ParseUint(from, 16, 64)
	if err != nil {
		return bad(err)
	}
	end, err := strconv.ParseUint(to, 16, 64)
	if err != nil {
		return bad(err)
	}
	f := strings.Fields(rest)
	if len(f) < 4 {
		return bad(fmt.Errorf("%d fields after the range, need 4", len(f)))
	}
	inode, err := strconv.ParseUint(f[3], 10, 64)
	if err != nil {
		return bad(err)
	}
	return mapping{start: start, end: end, perms: f[0], inode: inode, path: strings.Join(f[4:], " ")}, nil
}

// parseKiB reads a value like "  123 kB".
func parseKiB(s string) (int64, error) {
	return strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(s), "kB")), 10, 64)
}

// parseStatus returns the sum of the given fields of /proc/PID/status, in KiB.
func parseStatus(r io.Reader, fields ...string) (int64, error) {
	var sum int64
	found := 0
	in := bufio.NewScanner(r)
	for in.Scan() {
		key, value, _ := strings.Cut(in.Text(), ":")
		for _, f := range fields {
			if key != f {
				continue
			}
			kib, err := parseKiB(value)
			if err != nil {
				return 0, fmt.Errorf("status: %q: %w", in.Text(), err)
			}
			sum += kib
			found++
		}
	}
	if err := in.Err(); err != nil {
		return 0, err
	}
	if found != len(fields) {
		return 0, fmt.Errorf("status: found %d of the fields %v; did the process end?", found, fields)
	}
	return sum, nil
}

// findGuest returns which mappings are the guest's memory of size bytes: the
// only run of adjacent mappings that can be guest memory and add up to it.
// mprotect splits what was one mapping into several.
func findGuest(maps []mapping, size uint64) (first, last int, err error) {
	found := 0
	for i := range maps {
		var sum uint64
		for j := i; j < len(maps) && sum < size; j++ {
			if !maybeGuest(&maps[j]) || j > i && maps[j].start != maps[j-1].end {
				break
			}
			if sum += maps[j].size(); sum == size {
				first, last = i, j
				found++
			}
		}
	}
	switch found {
	case 0:
		return 0, 0, fmt.Errorf("no anonymous mapping of %d MiB: is --mem what the program was told?", size>>20)
	case 1:
		return first, last, nil
	}
	return 0, 0, fmt.Errorf("%d mappings of %d MiB, cannot tell which is the guest's: take another memory size for it and --mem",
		found, size>>20)
}

// maybeGuest says whether m could be guest memory: anonymous, or shared
// memory without a name, which the kernel shows as a deleted file. The Go
// runtime has tables that are as large as a guest; it asks for no huge pages
// there, which nobody does for a guest.
func maybeGuest(m *mapping) bool {
	switch {
	case isGoHeap(m) || m.noHuge:
		return false
	case m.inode == 0:
		return m.path == "" || strings.HasPrefix(m.path, "[anon")
	}
	return strings.HasPrefix(m.path, "/dev/zero") || strings.HasPrefix(m.path, "/memfd:")
}
