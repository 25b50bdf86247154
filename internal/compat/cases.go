package main

import (
	"fmt"
	"path/filepath"
	"sort"
	"strings"
)

// testCase is one test of upstream's tests.bats for the hvt target.
type testCase struct {
	name string
	// line is what follows the tender's name; {dir} is the scratch directory
	// and {mem} the --mem option that upstream gives to all tests but one.
	line   string
	images []image
	pings  []ping
	// short replaces line where the guest would wait for upstream's number of
	// pings and is stopped after fewer; "" = line.
	short string
	want  expect

	debug bool   // upstream: the tender's debug build
	skip  string // why tests.bats does not judge this test on Linux
	known string // why uvm is known to fail
}

// image is a disk file of zeros in the scratch directory, new for each run.
type image struct {
	name string
	size int64 // bytes
}

// ping is a flood of echo requests to the guest, one second after its start.
type ping struct {
	addr    string
	count   int    // upstream's
	pattern string // payload, in hexadecimal; "" = ping's own
}

// shortPings is the number of pings without -full.
const shortPings = 200

// expect is upstream's criterion for a test.
type expect struct {
	status int
	text   []string // each occurs on stdout or stderr
	absent string   // does not occur there; "" = anything may
	flaky  string   // a failure with this text does not count; "" = all do
	core   bool     // a core dump lies in {dir}
}

var (
	success = expect{status: 0, text: []string{"SUCCESS"}}
	aborted = expect{status: 255, text: []string{"ABORT"}}
	faulted = expect{status: 1, text: []string{"host/guest translation fault"}}
)

// kernel is the path of the unikernel below tests/.
func (c *testCase) kernel() string {
	for _, w := range strings.Fields(c.line) {
		if strings.HasSuffix(w, ".hvt") {
			return w
		}
	}
	return ""
}

// words is the command line after the tender's name.
func (c *testCase) words(dir string, full bool) []string {
	line := c.line
	if c.short != "" && !full {
		line = c.short
	}
	return strings.Fields(strings.NewReplacer("{mem}", "--mem=4096", "{dir}", dir).Replace(line))
}

// simple is a test without devices: test_NAME.hvt with the given arguments.
func simple(name, args string, want expect) testCase {
	return testCase{name: name, line: fmt.Sprintf("{mem} test_%s/test_%s.hvt %s", name, name, args), want: want}
}

// otherHost is a test that upstream judges on OpenBSD only.
func otherHost(name string) testCase {
	c := simple(name, "", faulted)
	c.skip = "judged on OpenBSD only"
	return c
}

// refused is test_blk with a disk that the tender does not accept.
func refused(name string, size int64, sector int, text string) testCase {
	return testCase{
		name:   name,
		line:   fmt.Sprintf("{mem} --block:storage={dir}/storage.img --block-sector-size:storage=%d -- test_blk/test_blk.hvt", sector),
		images: []image{{"storage.img", size}},
		want:   expect{status: 1, text: []string{text}},
	}
}

// allCases is every test in the order of tests.bats.
func allCases() []testCase {
	quiet := success
	quiet.absent = "Solo5:"
	timed := success
	timed.flaky = "slept too little"
	mtu := expect{status: 0, text: []string{"MTU is 9000", "SUCCESS"}}
	disk := []image{{"storage.img", 4 << 20}}

	return append([]testCase{
		simple("hello", "Hello_Solo5", success),
		{name: "quiet", line: "{mem} -- test_quiet/test_quiet.hvt --solo5:quiet", want: quiet},
		simple("output", "Output_Solo5", expect{status: 0}),
		simple("globals", "", success),
		simple("exception", "", aborted),
		simple("zeropage", "", aborted),
		otherHost("rnow"),
		simple("xnow", "", faulted),
		otherHost("xnor"),
		otherHost("rnox"),
		otherHost("wnox"),
		simple("notls", "", aborted),
		simple("tls", "", success),
		simple("ssp", "", aborted),
		simple("fpu", "", success),
		simple("time", "", timed),
		{name: "blk", line: "{mem} --block:storage={dir}/storage.img -- test_blk/test_blk.hvt", images: disk, want: success},
		{
			name:   "blk block-sector-size=4096",
			line:   "{mem} --block:storage={dir}/storage.img --block-sector-size:storage=4096 -- test_blk/test_blk.hvt",
			images: disk, want: success,
		},
		refused("blk misaligned", 3*2048, 4096, "Backing storage size must be block aligned"),
		refused("blk odd", 3*521, 521, "Block size must be a multiple of 2"),
		refused("blk too small", 256, 256, "Block size must be a multiple of 2 greater than or equal 512"),
	}, append(netCases(mtu),
		testCase{
			name: "dumpcore", line: "--dumpcore={dir} test_dumpcore/test_dumpcore.hvt", debug: true,
			want: expect{status: 255, core: true},
		},
		maxDevices(),
		testCase{
			name: "buggyelf", line: "{mem} test_buggyelf/buggyelf.hvt",
			want: expect{status: 1, text: []string{"note does not fall within valid size"}},
		},
	)...)
}

func netCases(mtu expect) []testCase {
	const (
		one = "{mem} --net:service0=tap100 -- test_net/test_net.hvt"
		two = "{mem} --net:service0=tap100 --net:service1=tap101 -- test_net_2if/test_net_2if.hvt"
		rng = "{mem} --net:service0=tap100 -- test_net_ring/test_net_ring.hvt"
	)
	return []testCase{
		{name: "net", line: one + " limit", short: one, want: success, pings: []ping{{"10.0.0.2", 100000, ""}}},
		{
			name: "net_2if", line: two + " limit", short: two, want: success,
			pings: []ping{{"10.0.0.2", 50000, ""}, {"10.1.0.2", 50000, ""}},
		},
		{name: "net_mtu", line: "{mem} --net:service0=tap102 -- test_net_mtu/test_net_mtu.hvt", want: mtu},
		{name: "net_ring", line: rng, short: rng, want: success, pings: []ping{{"10.0.0.2", 10000, "deadbeef"}}},
	}
}

// maxDevices has a full manifest: 63 disks of one 4 KiB block.
func maxDevices() testCase {
	c := testCase{name: "mft_maxdevices", want: success}
	c.line = "{mem}"
	for i := range 63 {
		c.line += fmt.Sprintf(" --block:storage%d={dir}/storage%d.img", i, i)
		c.images = append(c.images, image{fmt.Sprintf("storage%d.img", i), 4096})
	}
	c.line += " -- test_mft_maxdevices/test_mft_maxdevices.hvt"
	return c
}

// unknownBinaries lists the tree's hvt tests that no case runs.
func unknownBinaries(solo5 string, cases []testCase) ([]string, error) {
	tests := filepath.Join(solo5, "tests")
	found, err := filepath.Glob(filepath.Join(tests, "test_*", "*.hvt"))
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for i := range cases {
		have[cases[i].kernel()] = true
	}
	var unknown []string
	for _, f := range found {
		if rel, err := filepath.Rel(tests, f); err == nil && !have[rel] {
			unknown = append(unknown, rel)
		}
	}
	sort.Strings(unknown)
	return unknown, nil
}
