package main

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/uvm-monitor/uvm/devices"
)

// diskLimit and netLimit are the words of --disk and --net that bound what the device moves (docs/limits.md).
type diskLimit struct {
	BPS   byteRate `json:"bps,omitempty"`
	IOPS  opRate   `json:"iops,omitempty"`
	Burst duration `json:"burst,omitempty"`
}

// netLimit's BPS and PPS are for the directions that have none of their own: Rx is to the guest.
type netLimit struct {
	BPS   byteRate `json:"bps,omitempty"`
	RxBPS byteRate `json:"rx-bps,omitempty"`
	TxBPS byteRate `json:"tx-bps,omitempty"`
	PPS   opRate   `json:"pps,omitempty"`
	RxPPS opRate   `json:"rx-pps,omitempty"`
	TxPPS opRate   `json:"tx-pps,omitempty"`
	Burst duration `json:"burst,omitempty"`
}

type limitWords map[string]interface{ Set(string) error }

func (l *diskLimit) words() limitWords {
	return limitWords{"bps": &l.BPS, "iops": &l.IOPS, "burst": &l.Burst}
}

func (l *netLimit) words() limitWords {
	return limitWords{"bps": &l.BPS, "rx-bps": &l.RxBPS, "tx-bps": &l.TxBPS, "pps": &l.PPS, "rx-pps": &l.RxPPS, "tx-pps": &l.TxPPS, "burst": &l.Burst}
}

// set takes a word if it is one of these.
func (w limitWords) set(key, value string) (is bool, err error) {
	field, is := w[key]
	if is {
		if err = field.Set(value); err != nil {
			err = fmt.Errorf("%s=%s: %w", key, value, err)
		}
	}
	return is, err
}

func (l *diskLimit) limit() devices.Limit {
	return devices.Limit{Bytes: uint64(l.BPS), Ops: uint64(l.IOPS), Burst: time.Duration(l.Burst)}
}

// limits are those to the guest and from it. A burst is for the directions that have a rate, if one has.
func (l *netLimit) limits() (rx, tx devices.Limit) {
	burst := devices.Limit{Burst: time.Duration(l.Burst)}
	rx, tx = burst, burst
	rx.Bytes, rx.Ops = uint64(cmp.Or(l.RxBPS, l.BPS)), uint64(cmp.Or(l.RxPPS, l.PPS))
	tx.Bytes, tx.Ops = uint64(cmp.Or(l.TxBPS, l.BPS)), uint64(cmp.Or(l.TxPPS, l.PPS))
	if rx == burst && tx != burst {
		rx = devices.Limit{}
	} else if tx == burst && rx != burst {
		tx = devices.Limit{}
	}
	return rx, tx
}

// byteRate is a number of bytes per second. A bare number is bytes; with K, M or G they are powers of two, as in memSize.
type byteRate uint64

func (r byteRate) String() string {
	if r == 0 || r%1024 != 0 {
		return strconv.FormatUint(uint64(r), 10)
	}
	return memSize(r).String()
}

// Set parses 1000000, 10M, 10MiB.
func (r *byteRate) Set(s string) error {
	n, err := parseSize(s, 0)
	if err != nil {
		return fmt.Errorf("want a positive number of bytes per second, as 10M (with K, M or G; a bare number is bytes)")
	}
	*r = byteRate(n)
	return nil
}

// MarshalText and UnmarshalJSON make the JSON form: a string with a unit, or a number of bytes per second.
func (r byteRate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalJSON accepts a string or a bare number.
func (r *byteRate) UnmarshalJSON(b []byte) error {
	if err := r.Set(strings.Trim(string(b), `"`)); err != nil {
		return fmt.Errorf("bps: %s: %w", b, err)
	}
	return nil
}

// opRate is a number of requests or frames per second.
type opRate uint64

// Set parses a positive number.
func (r *opRate) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		return fmt.Errorf("want a positive number per second")
	}
	*r = opRate(n)
	return nil
}

// UnmarshalJSON accepts what Set does.
func (r *opRate) UnmarshalJSON(b []byte) error {
	if err := r.Set(string(b)); err != nil {
		return fmt.Errorf("iops or pps: %s: %w", b, err)
	}
	return nil
}

// parseSize parses a positive number with K, M or G; one without means units of 1 << bare.
func parseSize(s string, bare uint) (uint64, error) {
	num, shift := strings.ToUpper(s), bare
	for _, u := range memUnits {
		if n, ok := strings.CutSuffix(strings.TrimSuffix(num, "IB"), u.suffix); ok {
			num, shift = n, u.shift
			break
		}
	}
	n, err := strconv.ParseUint(num, 10, 64)
	if err != nil || n == 0 || n > math.MaxUint64>>shift {
		return 0, strconv.ErrRange
	}
	return n << shift, nil
}
