package devices

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// COM1 is the first of the eight ports of a PC's first serial port. Its
// interrupt is IRQ 4.
const COM1 = 0x3f8

// Where a UART keeps what: the registers at their offsets from COM1, where RBR
// and THR share a place, as do IIR and FCR; then the divisor latch; the THRI
// cause, from when THR empties until IIR has told; LSR reads in a row, up to
// 2, which stay 2 until IER is written; the number of bytes in the receiver,
// and these. Of FCR, bit 0 is kept, of LSR the overrun.
const (
	uartData, uartIER, uartFCR, uartLCR, uartMCR, uartLSR, uartMSR, uartSCR = 0, 1, 2, 3, 4, 5, 6, 7
	uartDLL, uartDLM, uartTHRE, uartPolls, uartN, uartRX, uartSize          = 8, 9, 10, 11, 12, 13, 29

	// IER's causes: receive data, THR empty. The third is line status, 4.
	ierRDI, ierTHRI  = 1, 2
	lcrDLAB, mcrLoop = 0x80, 0x10
)

// uartBits are those that a place can have.
var uartBits = []byte{0, 0x0f, 1, 0xff, 0x1f, 2, 0, 0xff, 0xff, 0xff, ierTHRI, 3, 0x1f}

// UART is a 16550A (National Semiconductor PC16550D) whose line has no speed:
// output goes to a writer in the call that writes it, and the receive trigger
// level counts as 1. The modem lines change in loopback only and cause no
// interrupts. OUT2 does not gate the interrupt. eachByte says what wide
// accesses do.
//
// Input from the host waits outside until the guest listens: until it enables
// the receive interrupt, or reads LSR twice with nothing in between, which
// only who waits for input does here. Otherwise a driver that clears the
// receiver when it starts, as Linux does, would lose what was typed or piped
// ahead.
//
// PortOut, PortIn, SaveState and LoadState are for one goroutine at a time,
// Input may be called from another. irq and InputRoom are called with the lock
// held and must not call back.
type UART struct {
	// InputRoom is called once when there is room after an Input that could
	// not take everything. Set it before the first Input.
	InputRoom func()

	out io.Writer
	irq func()
	tx  []byte // collects what one PortOut sends

	mu      sync.Mutex
	reg     [uartSize]byte
	raised  byte // causes whose edge was given
	starved bool // the last Input could not take everything
}

// NewUART returns a UART in its reset state that writes to out, whose errors
// the guest does not see. irq is called for each edge of the interrupt line.
func NewUART(out io.Writer, irq func()) *UART {
	return &UART{out: out, irq: irq, InputRoom: func() {}, reg: [uartSize]byte{uartDLL: 1}}
}

// Input gives the guest as much of b as the receiver has room for and returns
// how many bytes that was. When there is room for the rest, InputRoom is
// called. It may be called from any goroutine and never blocks.
func (u *UART) Input(b []byte) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := min(u.room(), len(b))
	copy(u.reg[uartRX+u.reg[uartN]:], b[:n])
	u.reg[uartN] += byte(n)
	u.starved = n < len(b)
	u.update()
	return n
}

// size is the number of bytes that the receiver holds.
func (u *UART) size() int { return 1 + 15*int(u.reg[uartFCR]) }

// room is the number of bytes that the receiver takes from the host now.
func (u *UART) room() int {
	if u.reg[uartMCR]&mcrLoop != 0 || u.reg[uartIER]&ierRDI == 0 && u.reg[uartPolls] < 2 {
		return 0
	}
	return u.size() - int(u.reg[uartN])
}

// pending is the set of causes that are enabled.
func (u *UART) pending() byte {
	return (min(u.reg[uartN], ierRDI) | u.reg[uartTHRE] | u.reg[uartLSR]<<1) & u.reg[uartIER]
}

// update gives an edge for each new cause, and for what is left after another
// was served: whoever listens to edges would not look again.
func (u *UART) update() {
	p := u.pending()
	if p != 0 && p != u.raised {
		u.irq()
	}
	u.raised = p
	if u.starved && u.room() > 0 {
		u.starved = false
		u.InputRoom()
	}
}

// PortOut writes registers. Everything that it sends goes to the writer in one
// call, outside the lock: a slow reader does not hold up Input.
func (u *UART) PortOut(port uint16, size int, data []byte) error {
	if len(u.tx) == 0 { // else this is an access that was interrupted
		u.mu.Lock()
		eachByte(port, size, data, u.write)
		u.update()
		u.mu.Unlock()
	}
	if len(u.tx) > 0 {
		if n, err := u.out.Write(u.tx); err == ErrInterrupted {
			u.tx = append(u.tx[:0], u.tx[n:]...)
			return err
		}
		u.tx = u.tx[:0]
	}
	return nil
}

// PortIn reads registers.
func (u *UART) PortIn(port uint16, size int, data []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	eachByte(port, size, data, u.read)
	u.update()
	return nil
}

// register is the place of a port's register, uartSize if it has none.
// Any access but a read of LSR ends a row of such reads.
func (u *UART) register(port uint16) uint16 {
	r := port - COM1
	if r != uartLSR && u.reg[uartPolls] < 2 {
		u.reg[uartPolls] = 0
	}
	switch {
	case r < uartFCR && u.reg[uartLCR]&lcrDLAB != 0:
		return r + uartDLL
	case r > uartSCR:
		return uartSize
	}
	return r
}

func (u *UART) write(port uint16, b *byte) error {
	n := &u.reg[uartN]
	switch r, v := u.register(port), *b; r {
	case uartData:
		u.reg[uartTHRE] = ierTHRI // sent at once, and empty anew
		u.raised &^= ierTHRI
		switch {
		case u.reg[uartMCR]&mcrLoop == 0:
			u.tx = append(u.tx, v)
		case int(*n) == u.size():
			u.reg[uartLSR] = uartBits[uartLSR]
		default:
			u.reg[uartRX+*n] = v
			*n++
		}
	case uartIER:
		u.reg[uartTHRE] |= v &^ u.reg[r] & ierTHRI // THR is empty whenever it is asked
		u.reg[r], u.reg[uartPolls] = v&uartBits[r], 0
	case uartFCR:
		if v&1 != u.reg[r] || v&2 != 0 { // a change of mode empties the FIFOs too
			*n = 0
		}
		u.reg[r] = v & 1
	case uartLCR, uartMCR, uartSCR, uartDLL, uartDLM:
		u.reg[r] = v & uartBits[r]
	}
	return nil
}

func (u *UART) read(port uint16, b *byte) error {
	n, rx := &u.reg[uartN], u.reg[uartRX:]
	switch r := u.register(port); r {
	case uartData:
		*b = rx[0]
		if *n > 0 {
			*n--
			copy(rx[:*n], rx[1:])
		}
	case uartFCR: // IIR tells the first cause in order of priority
		id := [...]byte{1, 4, 2, 4, 6, 6, 6, 6}[u.pending()]
		if id == 2 {
			u.reg[uartTHRE] = 0
		}
		*b = id | u.reg[r]*0xc0
	case uartLSR:
		u.reg[uartPolls] = min(u.reg[uartPolls]+1, 2)
		*b = 0x60 | u.reg[r] | min(*n, 1) // THRE, TEMT; DR
		u.reg[r] = 0
	case uartMSR:
		*b = 0xb0 // DCD, DSR, CTS: somebody is connected
		if m := u.reg[uartMCR]; m&mcrLoop != 0 {
			*b = m&1<<5 | m&2<<3 | m&0x0c<<4 // DTR is DSR, RTS is CTS, OUT1 and OUT2 are RI and DCD
		}
	case uartIER, uartLCR, uartMCR, uartSCR, uartDLL, uartDLM:
		*b = u.reg[r]
	default:
		*b = 0xff
	}
	return nil
}

// SaveState returns the registers and the receiver's bytes.
func (u *UART) SaveState() ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return bytes.Clone(u.reg[:]), nil
}

// LoadState takes what SaveState returned, and gives an edge if a cause is
// pending.
func (u *UART) LoadState(state []byte) error {
	var n UART
	if err := LoadState("uart", n.reg[:], state, uartBits); err != nil {
		return err
	}
	if int(n.reg[uartN]) > n.size() {
		return fmt.Errorf("uart: saved receiver has %d bytes, need up to %d", n.reg[uartN], n.size())
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reg, u.raised = n.reg, 0
	u.update()
	return nil
}
