package loader

import (
	"errors"
	"fmt"
	"io/fs"
)

// ErrorKind says what is wrong with a kernel file.
type ErrorKind int

// The kinds, in the order in which they are looked for.
const (
	ErrOpen       ErrorKind = iota // cannot be opened or read
	ErrFormat                      // not a well-formed 64-bit x86 executable
	ErrNoABI                       // no Solo5 ABI1 note
	ErrTarget                      // for another Solo5 target than hvt
	ErrABIVersion                  // for another version of the hvt ABI
	ErrNoManifest                  // no Solo5 MFT1 note
	ErrManifest                    // manifest breaks its rules
	ErrFit                         // segments break the loading rules or do not fit into memory
)

// Error is a kernel file that cannot be loaded.
type Error struct {
	Kind    ErrorKind
	Path    string
	Version uint32 // for ErrABIVersion: the version asked for
	Detail  string // what and where
	Err     error  // cause, for ErrOpen
}

func (e *Error) Error() string {
	s := "kernel " + e.Path
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	var pe *fs.PathError
	switch {
	case errors.As(e.Err, &pe): // which names the path again
		s += ": " + pe.Err.Error()
	case e.Err != nil:
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

func (img *Image) errorf(kind ErrorKind, format string, args ...any) *Error {
	return &Error{Kind: kind, Path: img.Path, Detail: fmt.Sprintf(format, args...)}
}
