package gdb

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// query is the packets that begin with q or Q.
func (ss *session) query(s string) string {
	name, args, _ := strings.Cut(s, ":")
	switch name {
	case "qSupported":
		return fmt.Sprintf("PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;qXfer:exec-file:read+;swbreak+;hwbreak+;vContSupported+", maxPacket)
	case "QStartNoAckMode":
		ss.noAck = true
		return "OK"
	case "qXfer":
		return ss.transfer(args)
	case "qC":
		return fmt.Sprintf("QC%x", ss.general+1)
	case "qAttached":
		if ss.Child {
			return "0"
		}
		return "1"
	case "qfThreadInfo":
		ids := make([]string, ss.Target.Threads())
		for i := range ids {
			ids[i] = strconv.FormatInt(int64(i+1), 16)
		}
		return "m" + strings.Join(ids, ",")
	case "qsThreadInfo":
		return "l"
	}
	if id, ok := strings.CutPrefix(s, "qThreadExtraInfo,"); ok {
		n, err := threadID(id)
		if err != nil || n < 1 || n > ss.Target.Threads() {
			return errInvalid
		}
		return hex.EncodeToString([]byte(ss.Target.Describe(n - 1)))
	}
	if cmd, ok := strings.CutPrefix(s, "qRcmd,"); ok {
		b, err := hex.DecodeString(cmd)
		if err != nil || ss.gone {
			return errInvalid
		}
		text := ss.Target.Monitor(strings.TrimSpace(string(b)))
		for len(text) > maxPacket/2-1 { // all but the last piece as console output
			if ss.send("O"+hex.EncodeToString([]byte(text[:maxPacket/2-1]))) != nil {
				break // the answer finds out too
			}
			text = text[maxPacket/2-1:]
		}
		if text == "" {
			return "OK"
		}
		return hex.EncodeToString([]byte(text))
	}
	return ""
}

// transfer is qXfer: OBJECT:read:ANNEX:OFFSET,LENGTH.
func (ss *session) transfer(s string) string {
	parts := strings.Split(s, ":")
	if len(parts) != 4 || parts[1] != "read" {
		return ""
	}
	off, n, ok := addrLen(parts[3])
	if !ok {
		return errInvalid
	}
	var doc string
	switch parts[0] {
	case "features":
		if parts[2] != "target.xml" {
			return "E00"
		}
		doc = targetXML()
	case "exec-file":
		doc = ss.Target.Program()
	default:
		return ""
	}
	if off >= uint64(len(doc)) {
		return "l"
	}
	doc = doc[off:]
	// Half a packet has room for it also where each byte is escaped.
	if n = min(n, maxPacket/2-1); uint64(len(doc)) > n {
		return "m" + doc[:n]
	}
	return "l" + doc
}
