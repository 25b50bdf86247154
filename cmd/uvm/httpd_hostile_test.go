package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// testImpatient has clients that the guest must not wait for: some that send
// half a request, and some that take nothing of a response. They are dropped,
// and others do not notice them.
func testImpatient(t *testing.T, s *httpd) {
	const impatient = 120
	var slow, deaf []*net.TCPConn
	for i := range impatient {
		conn := s.connect()
		request := "GET /bytes/1000000000 HTTP/1.1\r\nHost: a\r\n"
		if i%2 == 0 {
			slow = append(slow, conn)
		} else {
			if err := conn.SetReadBuffer(4096); err != nil {
				t.Fatal(err)
			}
			deaf = append(deaf, conn)
			request += "\r\n"
		}
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
	}
	want := bytesOf(100000)
	for range 10 {
		s.healthy()
		if _, body, err := s.get("/bytes/100000"); err != nil || string(body) != string(want) {
			t.Fatalf("GET /bytes/100000 beside deaf clients = %d bytes, %v; want the pattern", len(body), err)
		}
	}
	for _, conn := range slow {
		if got, err := io.ReadAll(conn); len(got) > 0 {
			t.Errorf("half a request = %q, %v; want no response", got, err)
		}
	}
	// They look again only when the guest has lost patience.
	for s.stats().Open > 1 {
		time.Sleep(100 * time.Millisecond)
	}
	for _, conn := range deaf {
		if n, err := io.Copy(io.Discard, conn); n >= 1000000000 {
			t.Errorf("a deaf client got %d bytes, %v; want a part", n, err)
		}
	}
	if got := s.stats().Dropped; got != impatient {
		t.Errorf("dropped = %d; want %d", got, impatient)
	}
}

// testResets breaks connections off at any time of a transfer.
func testResets(t *testing.T, s *httpd) {
	const request = "GET /bytes/1000000000 HTTP/1.1\r\nHost: a\r\n\r\n"
	buf := make([]byte, 100000)
	for i := range scaled(200, 20) {
		conn := s.connect()
		n := len(request)
		if i%3 > 0 {
			n = i % n
		}
		if _, err := io.WriteString(conn, request[:n]); err != nil {
			t.Fatal(err)
		}
		if n == len(request) {
			if _, err := io.ReadFull(conn, buf[:1+i*400]); err != nil {
				t.Fatal(err)
			}
		}
		if i%2 == 0 {
			if err := conn.SetLinger(0); err != nil { // close sends RST
				t.Fatal(err)
			}
		}
		conn.Close()
	}
}

// testCrowd makes more connections than the guest keeps. A newcomer takes the place
// of the one that has been silent for longest.
func testCrowd(t *testing.T, s *httpd) {
	const kept = 256 // SERVE_CONNECTIONS of guests/httpd/serve.h
	for range kept {
		conn := s.connect()
		if _, err := io.WriteString(conn, "GET"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * time.Second) // EVICT_MS and more
	for range 5 {
		s.client.CloseIdleConnections()
		s.healthy()
	}
	if got := s.stats(); got.Open > kept || got.Dropped == 0 {
		t.Errorf("stats = %+v; want at most %d open connections and some dropped", got, kept)
	}
}

// testLink takes the interface down for a while.
func testLink(t *testing.T, s *httpd) {
	s.healthy()
	setUp(t, "tap0", false)
	setUp(t, "tap0", true)
	s.healthy()
}

// testDeleted takes the interface away: the guest says so and ends.
func testDeleted(t *testing.T, s *httpd) {
	s.healthy()
	if out, err := exec.Command("ip", "link", "delete", "tap0").CombinedOutput(); err != nil {
		t.Fatalf("ip link delete: %v: %s", err, out)
	}
	<-s.drain
	if got := s.run.wait(); got.status != 1 || strings.Count(got.stderr, "\n") != 1 || !strings.Contains(got.stderr, "net read failed") {
		t.Errorf("run = %+v; want status 1 and the reason", got)
	}
}

// testFrames sends what no honest peer sends: known attacks, then good frames
// with random changes. After each known one, and after all, the guest answers.
func testFrames(t *testing.T, s *httpd) {
	p := &peer{openEther(t, "tap0"), s.mac}
	const syn, ack, fin, rst = 2, 16, 1, 4
	data := func(n int) []byte { return []byte(strings.Repeat("12345678", (n+7)/8)[:n]) }
	attacks := map[string][][]byte{
		"header only":     {p.ethernet(0x0800, nil), p.ethernet(0x0806, nil), p.ethernet(0x86dd, nil), p.ethernet(0x8100, nil)},
		"VLAN":            {p.ethernet(0x8100, p.ping(0, data(40))[10:])},
		"ping of death":   {p.ping(0x2000, data(1400)), p.ping(0x1fff, data(1400))},
		"teardrop":        {p.ping(0x2000, data(32)), p.ping(0x0003, data(4))},
		"overlap":         {p.ping(0x2000, data(64)), p.ping(0x2002, data(64)), p.ping(0x2001, data(8)), p.ping(0x0004, data(64))},
		"same fragment":   {p.ping(0x2000, data(64)), p.ping(0x2000, data(64)), p.ping(0x2000, data(128)), p.ping(0x0009, data(8))},
		"empty fragments": {p.ipv4(hostIP, 1, 0x2000, nil), p.ipv4(hostIP, 1, 0x0001, nil), p.ipv4(hostIP, 6, 0x2001, data(1))},
		"land":            {p.tcp(guestIP, 80, syn, nil, nil)},
		"odd sources": {p.tcp([4]byte{255, 255, 255, 255}, 9, syn, nil, nil), p.tcp([4]byte{10, 0, 0, 255}, 9, syn, nil, nil),
			p.tcp([4]byte{224, 0, 0, 1}, 9, syn, nil, nil), p.tcp([4]byte{127, 0, 0, 1}, 9, syn, nil, nil), p.tcp([4]byte{}, 9, syn, nil, nil)},
		"options": {p.tcp(hostIP, 9, syn, []byte{2, 0, 0, 0}, nil), p.tcp(hostIP, 9, syn, []byte{2, 40, 0, 0}, nil), p.tcp(hostIP, 9, syn, []byte{2, 4, 0, 0}, nil),
			p.tcp(hostIP, 9, syn, []byte{3, 3, 255, 2}, nil), p.tcp(hostIP, 9, syn, []byte{254, 1, 1, 254}, nil), p.tcp(hostIP, 10, syn, []byte{2, 4, 0, 1}, data(900))},
		"urgent":     {set(p.tcp(hostIP, 9, ack|32, nil, data(10)), true, 14+20+18, 255)},
		"ARP theft":  {p.arp(2, [6]byte{2, 9, 9, 9, 9, 9}, guestIP), p.arp(1, [6]byte{255, 255, 255, 255, 255, 255}, [4]byte{10, 0, 0, 77})},
		"bad sums":   {set(p.ping(0, data(9)), false, 24, 1), set(p.tcp(hostIP, 9, syn, nil, nil), false, 50, 1), set(p.ping(0, data(9)), false, 36, 1)},
		"ICMP":       {set(p.ping(0, nil), true, 34, 3, 35, 4), set(p.ping(0, data(28)), true, 34, 5), p.ipv4(hostIP, 1, 0, data(3)), p.ipv4(hostIP, 1, 0, nil)},
		"protocols":  {p.ipv4(hostIP, 17, 0, data(3)), p.ipv4(hostIP, 2, 0, data(8)), p.ipv4(hostIP, 255, 0, data(900)), p.ipv4(hostIP, 6, 0, data(3))},
		"IP version": {set(p.ping(0, data(9)), true, 14, 0x65), set(p.ping(0, data(9)), true, 14, 0x44), set(p.ping(0, data(60)), true, 14, 0x4f)},
	}
	for n := range 54 { // every length of a SYN, the IP header's own length right or not
		attacks["cut"] = append(attacks["cut"], set(p.tcp(hostIP, 9, syn, nil, nil), false, -1, max(n, 14)),
			set(p.tcp(hostIP, 9, syn, nil, nil), true, 17, max(n-14, 0), -1, max(n, 34)))
	}
	for offset := range 16 { // every data offset, and all combinations of flags
		attacks["data offset"] = append(attacks["data offset"], set(p.tcp(hostIP, 9, syn, nil, data(4)), true, 46, offset<<4))
	}
	for flags := range 256 {
		attacks["flags"] = append(attacks["flags"], p.tcp(hostIP, uint16(2000+flags), byte(flags), nil, data(flags%3)))
	}
	for i := range 200 { // never complete
		frame := set(p.ping(0x2000|uint16(i), data(1000)), true, 18, i, 14+15, i)
		attacks["fragments"] = append(attacks["fragments"], frame)
	}
	for name, frames := range attacks {
		for _, f := range frames {
			p.send(f)
		}
		s.client.CloseIdleConnections()
		p.announce()
		s.healthy()
		if t.Failed() {
			t.Fatalf("the guest does not answer after %s", name)
		}
	}
	good := [][]byte{p.ping(0, data(40)), p.ping(0x2000, data(64)), p.arp(1, hostMAC, hostIP), p.tcp(hostIP, 99, syn, []byte{2, 4, 5, 180, 3, 3, 7, 0}, nil),
		p.tcp(hostIP, 99, ack, nil, data(99)), p.tcp(hostIP, 99, fin|ack, nil, nil), p.tcp(hostIP, 99, rst, nil, nil)}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range scaled(20000, 1000) {
		frame := append([]byte{}, good[random.IntN(len(good))]...)
		for range 1 + random.IntN(4) {
			frame[12+random.IntN(len(frame)-12)] = byte(random.Uint32())
		}
		if random.IntN(3) == 0 {
			frame = frame[:14+random.IntN(len(frame)-13)]
		}
		if random.IntN(4) > 0 {
			fix(frame)
		}
		p.send(frame)
		if i%5000 == 0 {
			p.announce()
			s.healthy()
		}
	}
	p.announce()
}

// testFlood sends 10,000 SYNs: from the host's own address, where its kernel
// resets what the guest answers, and from others that nobody has. Those stay
// half open in the guest, up to 20 seconds; a client gets in at once all the same.
func testFlood(t *testing.T, s *httpd) {
	p := &peer{openEther(t, "tap0"), s.mac}
	n, before := scaled(10000, 2000), s.stats().Read
	var clients []*net.TCPConn
	late := 0 // clients whose first SYN was not answered
	enter := func() {
		conn := s.connect()
		clients = append(clients, conn)
		if tcpInfo(t, conn).Total_retrans > 0 {
			late++
		}
	}
	for i := range n {
		source := hostIP
		if i%4 > 0 {
			source[3] = byte(3 + i%250)
		}
		p.send(p.tcp(source, uint16(1024+i%60000), 2, []byte{2, 4, 5, 180}, nil))
		if i%(n/10) == n/10-1 {
			enter()
		}
	}
	if late > len(clients)/2 { // one may be because the machine is busy
		t.Errorf("%d of %d clients had to repeat their SYN during the flood; want them to find a place at once", late, len(clients))
	}
	for range 10 {
		enter()
	}
	for i, conn := range clients {
		if _, err := io.WriteString(conn, "GET /bytes/5 HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.HasSuffix(got, append([]byte("\r\n\r\n"), bytesOf(5)...)) {
			t.Errorf("client %d = %q, %v; want the pattern", i, got, err)
		}
		conn.Close()
	}
	if got := s.stats().Read - before; got < n {
		t.Errorf("the guest has read %d frames; want all %d and more", got, n)
	}
}
