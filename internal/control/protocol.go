package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the protocol: raised when a message changes its meaning. Operations and fields may
// be added without that.
const Version = 1

const (
	// MaxRequest is the longest request in bytes, its newline included.
	MaxRequest = 8 << 10
	// MaxAnswer is the longest line that a client takes.
	MaxAnswer = 1 << 20
)

// request is what a client sends: one line of JSON.
type request struct {
	Version int             `json:"v"`
	Op      string          `json:"op"`
	Args    json.RawMessage `json:"args,omitempty"`
}

// answer is one line from the server.
type answer struct {
	Version int    `json:"v"`
	OK      bool   `json:"ok"`
	More    bool   `json:"more,omitempty"` // another line follows
	Error   string `json:"error,omitempty"`
	Result  any    `json:"result,omitempty"`
}

// reply is the same line at the client.
type reply struct {
	Version int             `json:"v"`
	OK      bool            `json:"ok"`
	More    bool            `json:"more"`
	Error   string          `json:"error"`
	Result  json.RawMessage `json:"result"`
}

// decodeRequest reads a request's line. Nothing in it is trusted.
func decodeRequest(line []byte) (request, error) {
	var r request
	if err := strict(line, &r); err != nil {
		return request{}, fmt.Errorf("malformed request: %w", err)
	}
	switch {
	case r.Version != Version:
		return request{}, fmt.Errorf("protocol version %d; this uvm speaks version %d", r.Version, Version)
	case r.Op == "":
		return request{}, errors.New("malformed request: no op")
	}
	return r, nil
}

// strict decodes exactly one JSON value that has no field which v lacks.
func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("empty")
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

// encode is v as a line.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}
