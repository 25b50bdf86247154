package control

import (
	"bytes"
	"testing"
)

// FuzzRequest: whatever a line holds, it is an error or a request that means the same when it is written again.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"v":1,"op":"info"}`, `{"v":1,"op":"x","args":{"a":[1,null]}}`, `{"v":1,"op":"x","args":null}`, `{"v":1,"op":"\ud800"}`, "", "{", "null", `{"V":1,"OP":"x"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := decodeRequest(line)
		if err != nil {
			return
		}
		if r.Version != Version || r.Op == "" {
			t.Errorf("decodeRequest(%q) = %+v; want a version and an op", line, r)
		}
		again, err := encode(r)
		if err != nil || bytes.IndexByte(again, '\n') != len(again)-1 {
			t.Fatalf("encode(%+v) = %q, %v; want one line", r, again, err)
		}
		got, err := decodeRequest(again)
		if err != nil || got.Op != r.Op || (len(got.Args) == 0) != (len(r.Args) == 0) {
			t.Errorf("decodeRequest(%q) = %+v, %v; want %+v", again, got, err, r)
		}
	})
}

// FuzzEntry: a file's name is a socket's, and then of that name only.
func FuzzEntry(f *testing.F) {
	f.Add("0123456789ab.sock")
	f.Add("0123456789ab.web.sock")
	f.Add("0123456789ab..sock")
	f.Fuzz(func(t *testing.T, file string) {
		if e, ok := parseEntry(file); ok && e.file() != file {
			t.Errorf("parseEntry(%q) = %+v, whose file is %q", file, e, e.file())
		}
	})
}
