package main

import (
	"fmt"
	"os"
	"strings"
)

// usage is the resident memory of a monitor, in KiB.
type usage struct {
	Text  int64 `json:"text_kib"`    // executable parts of files
	Data  int64 `json:"data_kib"`    // their other parts: constants, variables
	Heap  int64 `json:"heap_kib"`    // anonymous memory
	Other int64 `json:"other_kib"`   // stack and the mappings of devices
	Total int64 `json:"monitor_kib"` // all of these, without the guest
	Guest int64 `json:"guest_kib"`   // what the guest has touched of its memory
}

// measure looks at a running process whose guest has size bytes of memory.
func measure(pid int, size uint64) (*usage, error) {
	smaps, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, err
	}
	defer smaps.Close()
	status, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	defer status.Close()
	maps, err := parseSmaps(smaps)
	if err != nil {
		return nil, err
	}
	total, err := parseStatus(status, "RssAnon", "RssFile", "RssShmem")
	if err != nil {
		return nil, err
	}
	return account(maps, total, size)
}

// account splits total, the whole process, by kind. What the mappings do not
// explain is Other.
func account(maps []mapping, total int64, size uint64) (*usage, error) {
	first, last, err := findGuest(maps, size)
	if err != nil {
		return nil, err
	}
	u := &usage{}
	for i := range maps {
		m := &maps[i]
		switch {
		case i >= first && i <= last:
			u.Guest += m.rss
		case isFile(m) && strings.Contains(m.perms, "x"):
			u.Text += m.rss
		case isFile(m) || i > 0 && isBSS(m, &maps[i-1]):
			u.Data += m.rss
		case m.path == "" || m.path == "[heap]" || strings.HasPrefix(m.path, "[anon"):
			u.Heap += m.rss
		}
	}
	u.Total = total - u.Guest
	u.Other = u.Total - u.Text - u.Data - u.Heap
	return u, nil
}

func isFile(m *mapping) bool {
	return m.inode != 0 && strings.HasPrefix(m.path, "/") && !strings.HasPrefix(m.path, "/dev/") && !strings.HasPrefix(m.path, "/memfd:")
}

// isBSS says whether m holds the zero-initialised variables of the file
// mapped right before it.
func isBSS(m, before *mapping) bool {
	return m.inode == 0 && m.path == "" && isFile(before) && before.end == m.start
}

// isGoHeap says whether m lies in an arena of the Go heap, which would look
// like a guest of 64 MiB: in part reserved, in part in use. Go names its
// mappings where the kernel supports that; elsewhere the address tells. On
// amd64 the runtime puts arenas below 2^46 (runtime.mallocinit), and mmap
// chooses addresses close to 2^47.
func isGoHeap(m *mapping) bool {
	return strings.HasPrefix(m.path, "[anon: Go") || m.path == "" && m.start < 1<<46
}
