package wire

import (
	"bytes"
	"encoding/json"
	"testing"
)

func TestBytes(t *testing.T) {
	for _, b := range [][]byte{{}, []byte("plain\n"), []byte("ünï"), {0xff, 0, '\n'}, {0x16, '=', '='}} {
		e := Event{Event: Output}
		e.SetBytes(b)
		line := e.Encode()
		if n := bytes.IndexByte(line, '\n'); n != len(line)-1 {
			t.Errorf("Encode(%q) = %q; want one line", b, line)
		}
		var back Event
		if err := json.Unmarshal(line, &back); err != nil {
			t.Fatal(err)
		}
		if got := back.Bytes(); !bytes.Equal(got, b) {
			t.Errorf("Bytes() = %q; want %q", got, b)
		}
	}
}
