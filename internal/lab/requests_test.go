//go:build measure

package lab

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// loadCase is a server that a client on the same machine loads.
type loadCase struct {
	app, start string
	loads      []load
}

// load is one kind of requests. Its command prints how many of them were
// answered in a second.
type load struct{ name, command string }

const (
	redisLoad = `redis-benchmark -t %s -n 2000 --csv | sed -n 's/^"[GS]ET","\([0-9.]*\)".*/\1/p'`
	abLoad    = `ab -q -c 10 %s http://127.0.0.1/ | awk '/^Failed|^Non-2xx/ { bad += $NF } /^Requests per second/ { if (!bad) print $4 }'`
)

var loadCases = []loadCase{
	{
		app: "redis",
		start: `redis-server --save '' >/dev/null &
until redis-cli ping | grep -q PONG; do sleep 0.1; done
`,
		loads: []load{{"get", fmt.Sprintf(redisLoad, "get")}, {"set", fmt.Sprintf(redisLoad, "set")}},
	},
	{
		// A page as large as the one of nginx's that welcomes.
		app: "nginx",
		start: `mkdir -p /srv /var/lib/nginx/body /var/log/nginx
head -c 612 /dev/zero | tr '\0' x >/srv/index.html
cat >/nginx.conf <<end
daemon off; user www-data; pid /run/nginx.pid; error_log stderr;
events {}
http { access_log off; keepalive_requests 100; server { listen 80; root /srv; } }
end
nginx -c /nginx.conf &
until wget -q -O /dev/null http://127.0.0.1/; do sleep 0.1; done
`,
		loads: []load{{"connections", fmt.Sprintf(abLoad, "-n 300")}, {"sessions of 100", fmt.Sprintf(abLoad, "-k -n 1000")}},
	},
}

// loadRounds are by turns of the loads; one more before them warms up.
const loadRounds = 5

// init is what the guest does.
func (c *loadCase) init() string {
	s := "export PATH=/bin:/sbin:/usr/bin:/usr/sbin\nip link set lo up\n" + c.start
	s += fmt.Sprintf("for round in $(seq 0 %d); do\n", loadRounds)
	for _, l := range c.loads {
		s += fmt.Sprintf("\techo \"load,$round,%s,$(%s)\"\n", l.name, l.command)
	}
	return s + "done\nmount -o remount,ro /\nuvm-mark --poweroff\n"
}

// TestLupineRequests measures, in instructions, how many requests in a second
// redis and nginx answer on microvm, on lupine-general, and on their own kernels.
//
// The client is in the guest: the lab has one CPU, which it would share with the
// server in any case, and emulated exits would be most of what is measured.
func TestLupineRequests(t *testing.T) {
	tree, err := AppTree("load")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	rates := map[string]map[string][]float64{} // by load and kernel
	var jobs []Job
	var reports []func()
	for _, c := range loadCases {
		image := filepath.Join(t.TempDir(), c.app+".ext4")
		if err := (&LinuxGuest{Tree: tree, Init: c.init()}).Ext4(image, 128<<20); err != nil {
			t.Fatal(err)
		}
		files["/vm/"+c.app+".ext4"] = image
		kernels := []string{"microvm", "lupine-general", "lupine-base+" + c.app}
		withKernels(t, files, kernels)
		for _, l := range c.loads {
			rates[l.name] = map[string][]float64{}
			reports = append(reports, func() { report(t, l.name, kernels, rates[l.name]) })
		}
		for _, k := range kernels {
			jobs = append(jobs, Job{
				Name: c.app + " on " + k, Dir: "/vm", Bound: 3 * time.Minute,
				Argv: []string{"uvm", "run", k, "-m", "256M", "--disk", c.app + ".ext4", "--cmdline", "quiet"},
				Check: func(t *testing.T, r *Result) {
					for line := range strings.Lines(r.Stdout) {
						f := strings.Split(strings.TrimSpace(line), ",")
						if len(f) != 4 || f[0] != "load" || f[1] == "0" {
							continue
						}
						var rate float64
						if _, err := fmt.Sscan(f[3], &rate); err != nil || rate <= 0 {
							t.Errorf("%q: no rate (%v)", line, err)
						}
						rates[f[2]][k] = append(rates[f[2]][k], rate)
					}
					for _, l := range c.loads {
						t.Logf("%s: %.0f", l.name, rates[l.name][k])
					}
					if r.Status != 0 || len(rates[c.loads[0].name][k]) != loadRounds || t.Failed() {
						t.Errorf("status %d; want 0, and %d rounds\n%s%s", r.Status, loadRounds, r.Stdout, r.Stderr)
					}
				},
			})
		}
	}
	Run(t, Options{Memory: 3 << 30, ICount: true, Files: files}, jobs...)
	for _, r := range reports {
		r()
	}
}

// report prints the median rate of a load with each kernel, with the least and
// the largest, and what they are of the first kernel's median.
func report(t *testing.T, name string, kernels []string, rates map[string][]float64) {
	var base float64
	for i, k := range kernels {
		v := slices.Sorted(slices.Values(rates[k]))
		if len(v) == 0 {
			return // it failed, or -run left it out
		}
		m, least, most := v[len(v)/2], v[0], v[len(v)-1]
		if i == 0 {
			base = m
		}
		t.Logf("%-16s %-18s %7.0f/s (%.0f to %.0f), %.2f (%.2f to %.2f) of %s", name, k, m, least, most, m/base, least/base, most/base, kernels[0])
	}
}
