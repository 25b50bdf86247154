package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// everyFlag gives each flag of `uvm run` that is a setting a value that is not
// its default, and everyJSON says the same.
var everyFlag = []string{
	"--image", "app.tar", "--image-tag", "app:1", "--env", "A=b c", "--env", "D=",
	"--memory", "128M", "--cpus", "1", "--boot", "pvh", "--initrd", "rd", "--cmdline", "a b", "--rng", "--vsock", "/v",
	"--net", "service=fd:3,mac=02:00:00:00:00:01,mtu=1400",
	"--net", "tap1,ip=10.0.0.2/24,gw=10.0.0.1,bridge=br0,netns=blue,args=mirage,bps=10M,rx-bps=1500,tx-bps=1G,pps=1000,rx-pps=2,tx-pps=3,burst=1s",
	"--net-ring", "on",
	"--disk", "data=/a b.img,ro,cache=none,serial=A1,block-size=4096,bps=5K,iops=100,burst=250ms",
	"--disk", `x\,y`,
	"--console", "none", "--timeout", "1m30s",
	"--ring", "0", "--seal-exec-only", "--gdb", "unix:/g", "--gdb-wait", "--core", "/c", "--boot-report", "/r.json", "--boot-summary", "--timing",
	"--log-level", "warn", "--log-format", "json", "--log-file", "/l", "--log-size", "32M", "--log-rate", "8K",
	"--name", "web", "--control", "on", "--run-dir", "/d",
	"app.hvt", "--", "--x", "", "é <&>",
}

const everyJSON = `{
  "kernel": "app.hvt",
  "image": "app.tar",
  "image-tag": "app:1",
  "env": [
    "A=b c",
    "D="
  ],
  "args": [
    "--x",
    "",
    "é <&>"
  ],
  "memory": "128M",
  "cpus": 1,
  "boot": "pvh",
  "initrd": "rd",
  "cmdline": "a b",
  "rng": true,
  "vsock": "/v",
  "ring": "0",
  "seal-exec-only": true,
  "net": [
    {
      "name": "service",
      "fd": 3,
      "mac": "02:00:00:00:00:01",
      "mtu": 1400
    },
    {
      "tap": "tap1",
      "ip": "10.0.0.2/24",
      "gw": "10.0.0.1",
      "bridge": "br0",
      "netns": "blue",
      "args": "mirage",
      "bps": "10M",
      "rx-bps": "1500",
      "tx-bps": "1G",
      "pps": 1000,
      "rx-pps": 2,
      "tx-pps": 3,
      "burst": "1s"
    }
  ],
  "net-ring": "on",
  "disk": [
    {
      "name": "data",
      "path": "/a b.img",
      "ro": true,
      "cache": "none",
      "serial": "A1",
      "block-size": 4096,
      "bps": "5K",
      "iops": 100,
      "burst": "250ms"
    },
    {
      "path": "x,y"
    }
  ],
  "console": "none",
  "timeout": "1m30s",
  "gdb": "unix:/g",
  "gdb-wait": true,
  "core": "/c",
  "boot-report": "/r.json",
  "boot-summary": true,
  "timing": true,
  "log-level": "warn",
  "log-format": "json",
  "log-file": "/l",
  "log-size": "32M",
  "log-rate": "8K",
  "name": "web",
  "control": "on",
  "run-dir": "/d"
}
`

// settingsOf is what `uvm run` makes of its words.
func settingsOf(t testing.TB, args ...string) *settings {
	t.Helper()
	s, status := runSettings(args)
	if status >= 0 {
		t.Fatalf("runSettings(%q) ends with status %d; want settings", args, status)
	}
	return s
}

// asJSON is s as --print-config shows it.
func asJSON(t testing.TB, s *settings) string {
	t.Helper()
	b, err := encodeJSON(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func config(t testing.TB, text string) string {
	t.Helper()
	return writeFile(t, "config.json", []byte(text))
}

// TestFlagsAreKeys holds the flags and the schema of --config to one another.
func TestFlagsAreKeys(t *testing.T) {
	var flags, keys []string
	set := map[string]bool{}
	f := runFlags(new(settings))
	if err := f.Parse(everyFlag); err != nil {
		t.Fatal(err)
	}
	f.VisitAll(func(f *pflag.Flag) {
		if f.Name != "config" && f.Name != "print-config" && f.Name != "kernel" { // they are about the file, or an operand too
			flags = append(flags, f.Name)
			set[f.Name] = f.Changed
		}
	})
	for field := range reflect.TypeFor[settings]().Fields() {
		key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if key != "" && key != "kernel" && key != "args" { // no setting; operands
			keys = append(keys, key)
		}
	}
	if !slices.Equal(flags, keys) {
		t.Errorf("flags = %q\n keys = %q; want the same names in the same order", flags, keys)
	}
	for name, changed := range set {
		if !changed {
			t.Errorf("flag --%s is not in everyFlag; add it", name)
		}
	}
	s := settingsOf(t, everyFlag...)
	for field, value := range reflect.ValueOf(*s).Fields() {
		if value.IsZero() && field.Tag != "" {
			t.Errorf("settings.%s is zero after its flag was given; want the flag's value", field.Name)
		}
	}
}

// TestPrintConfig prints what the flags say and reads it back.
func TestPrintConfig(t *testing.T) {
	args := append([]string{"run", "--print-config"}, everyFlag...)
	wantQuiet(t, uvm(t, args...), 0, everyJSON)
	wantQuiet(t, uvm(t, "run", "--print-config", "--config", config(t, everyJSON)), 0, everyJSON)

	// The same from stdin.
	cmd := program(t, "uvm", "run", "--config", "-", "--print-config")
	cmd.Stdin = strings.NewReader(everyJSON)
	wantQuiet(t, run(t, cmd), 0, everyJSON)

	// And nothing but the kernel where nothing is said.
	wantQuiet(t, uvm(t, "run", "k", "--print-config"), 0, "{\n  \"kernel\": \"k\"\n}\n")
}

// TestFlagsWin puts flags on top of a file: one value replaces one value, and
// the first of a list replaces the whole list.
func TestFlagsWin(t *testing.T) {
	file := config(t, everyJSON)
	base := func() *settings {
		s := new(settings)
		if err := json.Unmarshal([]byte(everyJSON), s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, tt := range []struct {
		args   string
		change func(*settings)
	}{
		{"", func(*settings) {}},
		{"-m 2", func(s *settings) { s.Memory = 2 << 20 }},
		{"--cpus 3", func(s *settings) { s.CPUs = 3 }},
		{"--net tap9", func(s *settings) { s.Nets = netList{{TAP: "tap9"}} }},
		{"--net tap9 --net tap8", func(s *settings) { s.Nets = netList{{TAP: "tap9"}, {TAP: "tap8"}} }},
		{"--disk d", func(s *settings) { s.Disks = diskList{{Path: "d"}} }},
		{"--console stdio", func(s *settings) { s.Console = "stdio" }},
		{"--timeout 5s", func(s *settings) { s.Timeout = 5e9 }},
		{"--boot-summary=false", func(s *settings) { s.BootSummary = false }},
		{"--log-level=debug --log-format=text", func(s *settings) { s.LogLevel, s.LogFormat = "debug", "text" }},
		{"--boot-report=", func(s *settings) { s.BootReport = "" }},
		{"other.hvt", func(s *settings) { s.Kernel = "other.hvt" }},
		{"-- a b", func(s *settings) { s.Args = []string{"a", "b"} }},
		{"--", func(s *settings) { s.Args = nil }},
		{"other.hvt -m 4 -- -m 6", func(s *settings) { s.Kernel, s.Memory, s.Args = "other.hvt", 4<<20, []string{"-m", "6"} }},
	} {
		args := append(strings.Fields(tt.args), "--config", file)
		if i := slices.Index(args, "--"); i >= 0 { // what comes later is the guest's
			args = append([]string{"--config", file}, strings.Fields(tt.args)...)
		}
		want := base()
		tt.change(want)
		if got := asJSON(t, settingsOf(t, args...)); got != asJSON(t, want) {
			t.Errorf("runSettings(%q) = %s; want %s", args, got, asJSON(t, want))
		}
	}
}

// TestConfigMemory accepts both forms of a size.
func TestConfigMemory(t *testing.T) {
	for text, want := range map[string]memSize{`"64M"`: 64 << 20, `"64"`: 64 << 20, `64`: 64 << 20, `"1GiB"`: 1 << 30} {
		got := new(settings)
		if err := got.load(config(t, `{"memory":`+text+`}`)); err != nil || got.Memory != want {
			t.Errorf("load(memory %s) = %d, %v; want %d", text, got.Memory, err, want)
		}
	}
}

func TestBadConfig(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.json")
	if err := new(settings).load(missing); err == nil || !strings.Contains(err.Error(), "--config") || !strings.Contains(err.Error(), missing) {
		t.Errorf("load(%s) = %v; want the flag and the file named", missing, err)
	}
	for _, tt := range []struct{ text, want string }{
		{``, "EOF"},
		{`{`, "EOF"},
		{`{"kernel":"k"} x`, "more than one JSON value"},
		{`{"kernel":"k"}{}`, "more than one JSON value"},
		{`{"kernel":"k"}]`, "more than one JSON value"},
		{`[]`, "array"},
		{`"k"`, "string"},
		{`{"kernel":"k","rings":0}`, `unknown field "rings"`},
		{`{"net":[{"tap":"t","ip":"10.0.0.1"}]}`, "10.0.0.2/24"},
		{`{"net":[{"tap":"t","ipv4":"10.0.0.1"}]}`, `unknown field "ipv4"`},
		{`{"disk":[{"path":"d","RO ":true}]}`, `unknown field "RO "`},
		{`{"kernel":1}`, "kernel"},
		{`{"args":"a"}`, "args"},
		{`{"args":[1]}`, "args"},
		{`{"cpus":"1"}`, "cpus"},
		{`{"cpus":1.5}`, "cpus"},
		{`{"boot-summary":"yes"}`, "boot-summary"},
		{`{"net":{"tap":"t"}}`, "net"},
		{`{"net":[{"fd":-1.5}]}`, "fd"},
		{`{"disk":"d"}`, "disk"},
		{`{"memory":"0"}`, "memory"},
		{`{"memory":1.5}`, "memory"},
		{`{"memory":true}`, "memory"},
		{`{"memory":null}`, "memory"},
		{`{"memory":-64}`, "memory"},
		{`{"timeout":"5"}`, "timeout"},
		{`{"timeout":5}`, "timeout"},
		{`{"timeout":"-5s"}`, "timeout"},
		{`{"disk":[{"path":"d","bps":0}]}`, "bps: 0"},
		{`{"disk":[{"path":"d","bps":"17179869184G"}]}`, "bps"},
		{`{"disk":[{"path":"d","iops":0}]}`, "iops"},
		{`{"disk":[{"path":"d","iops":-5}]}`, "iops"},
		{`{"disk":[{"path":"d","iops":18446744073709551616}]}`, "iops"},
		{`{"disk":[{"path":"d","burst":"-1s"}]}`, "burst"},
		{`{"disk":[{"path":"d","pps":5}]}`, `unknown field "pps"`},
		{`{"net":[{"tap":"t","rx-bps":1.5}]}`, "bps: 1.5"},
		{`{"net":[{"tap":"t","tx-pps":"x"}]}`, "pps"},
		{`{"net":[{"tap":"t","iops":5}]}`, `unknown field "iops"`},
		{`{"net":[{"tap":"t","mac":"02:00"}]}`, "MAC address"},
		{`{"net":[{"tap":"t","mac":"01:00:00:00:00:00"}]}`, "multicast"},
	} {
		path := config(t, tt.text)
		err := new(settings).load(path)
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "--config "+path+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("load(%s) = %v; want one line that names the file and says %q", tt.text, err, tt.want)
		}
	}
}

// FuzzSettings reads any text as a configuration. What is accepted means the
// same after it was printed and read again.
func FuzzSettings(f *testing.F) {
	for _, s := range []string{everyJSON, `{}`, `null`, `[]`, `{"memory":64}`, `{"memory":"1\u0047"}`, `{"args":[]}`,
		`{"net":[{"fd":0}]}`, `{"net":[{}]}`, `{"timeout":"1h"}`, `{"kernel":"\ud800"}`, `{"kernel":"a"} `, `{"disk":[null]}`} {
		f.Add([]byte(s))
	}
	path := filepath.Join(f.TempDir(), "config.json")
	load := func(t *testing.T, data []byte) (*settings, error) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s := new(settings)
		return s, s.load(path)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := load(t, data)
		if err != nil {
			return
		}
		text := asJSON(t, s)
		again, err := load(t, []byte(text))
		if err != nil || asJSON(t, again) != text {
			t.Errorf("load(%s) = %s, %v; want the same again", text, asJSON(t, again), err)
		}
		s.vmConfig()
	})
}
