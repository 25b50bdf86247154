package gdb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
)

// maxPacket is the largest packet in bytes, between '$' and '#' and in either direction. gdb is told (PacketSize).
const maxPacket = 16 << 10

// maxNaks is how many packets with a wrong checksum, or requests to repeat an answer, may follow each other.
const maxNaks = 16

// inputKind says what a client sent.
type inputKind int

const (
	inPacket    inputKind = iota // a packet with a right checksum
	inBad                        // one with a wrong checksum
	inAck                        // '+'
	inNak                        // '-': the last answer did not arrive well
	inInterrupt                  // 0x03
)

// input is one thing that a client sent. data is the reader's, until the next read.
type input struct {
	kind inputKind
	data []byte
}

// errProtocol is a client that does not speak the protocol. It loses its connection.
var errProtocol = errors.New("not the GDB remote protocol")

// packetReader takes a client's bytes apart.
type packetReader struct {
	r   *bufio.Reader
	buf []byte
}

func newPacketReader(r io.Reader) *packetReader {
	return &packetReader{r: bufio.NewReaderSize(r, 4096)}
}

// next returns the next thing that the client sent. Escapes are resolved (section E.1, Overview). Bytes between
// packets that mean nothing are skipped, as the protocol wants.
func (p *packetReader) next() (input, error) {
	for {
		b, err := p.r.ReadByte()
		if err != nil {
			return input{}, err
		}
		switch b {
		case '+':
			return input{kind: inAck}, nil
		case '-':
			return input{kind: inNak}, nil
		case 0x03:
			return input{kind: inInterrupt}, nil
		case '$':
			return p.packet()
		}
	}
}

func (p *packetReader) packet() (input, error) {
	p.buf = p.buf[:0]
	var sum, escape byte
	for {
		b, err := p.r.ReadByte()
		if err != nil {
			return input{}, err
		}
		switch b {
		case '#':
			var given [2]byte
			if _, err := io.ReadFull(p.r, given[:]); err != nil {
				return input{}, err
			}
			hi, ok1 := nibble(given[0])
			lo, ok2 := nibble(given[1])
			if !ok1 || !ok2 || hi<<4|lo != sum || escape != 0 {
				return input{kind: inBad}, nil
			}
			return input{inPacket, p.buf}, nil
		case '$': // the one before was cut off
			p.buf, sum, escape = p.buf[:0], 0, 0
			continue
		}
		sum += b
		if b == '}' && escape == 0 {
			escape = 0x20
			continue
		}
		if len(p.buf) == maxPacket {
			return input{}, fmt.Errorf("%w: a packet of more than %d bytes", errProtocol, maxPacket)
		}
		p.buf, escape = append(p.buf, b^escape), 0
	}
}

// frame is a packet as it is sent, with data's special bytes escaped.
func frame(data []byte) []byte {
	out := make([]byte, 1, len(data)+8)
	out[0] = '$'
	var sum byte
	for _, b := range data {
		if b == '$' || b == '#' || b == '}' || b == '*' {
			out, sum, b = append(out, '}'), sum+'}', b^0x20
		}
		out, sum = append(out, b), sum+b
	}
	return append(out, '#', hexDigits[sum>>4], hexDigits[sum&15])
}

const hexDigits = "0123456789abcdef"

func nibble(b byte) (byte, bool) {
	switch {
	case b >= '0' && b <= '9':
		return b - '0', true
	case b >= 'a' && b <= 'f':
		return b - 'a' + 10, true
	case b >= 'A' && b <= 'F':
		return b - 'A' + 10, true
	}
	return 0, false
}
