package lab

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// envApps set to 1 runs all applications, each also on its own kernel, which
// has to be built: make -C guests/lupine lupine-base+redis …
const envApps = "UVM_TEST_APPS"

// appCase is an application from Debian's packages in a Linux guest, and what a
// client sees of it.
type appCase struct {
	name   string
	init   string // starts the server in the background; the guest ends when $! has been told to
	port   string
	client string   // in bash, with functions say and get; prints what the server answers
	want   []string // what that has
	memory string   // the guest's; 128M if empty
	always bool     // runs on lupine-general without envApps
}

var appCases = []appCase{
	{
		name: "redis", always: true, port: "6379",
		init:   "mkdir -p /data\nredis-server --bind 0.0.0.0 --protected-mode no --dir /data --appendonly yes --appendfsync always &\n",
		client: `say 'PING\r\nSET key value\r\nINCRBY n 41\r\nINCR n\r\nGET key\r\nQUIT\r\n'`,
		want:   []string{"+PONG\r\n+OK\r\n:41\r\n:42\r\n$5\r\nvalue\r\n+OK\r\n"},
	},
	{
		name: "nginx", always: true, port: "80",
		init: `mkdir -p /srv /var/lib/nginx/body /var/log/nginx
seq 100000 >/srv/numbers
cat >/nginx.conf <<end
daemon off; user www-data; pid /run/nginx.pid; error_log stderr;
events {}
http { access_log off; server { listen 80; root /srv; location = /hello { return 200 "hello from nginx\\n"; } } }
end
nginx -c /nginx.conf &
`,
		client: `get /hello; get /numbers | sha256sum; get /absent || echo none`,
		want:   []string{"hello from nginx\n", "b2bc7d3f8b652d2ec96865b68ad8f80e22cca174abe1aed7889e242a747d590f", "none"},
	},
	{
		name: "memcached", port: "11211",
		init:   "memcached -u memcache -l 0.0.0.0 &\n",
		client: `say 'set key 0 0 5\r\nvalue\r\nincr key 1\r\nget key\r\nquit\r\n'`,
		want:   []string{"STORED\r\nCLIENT_ERROR cannot increment or decrement non-numeric value\r\nVALUE key 0 5\r\nvalue\r\nEND\r\n"},
	},
	{
		name: "postgres", port: "5432", memory: "256M",
		init: `mkdir -p /data /dev/shm
mount -t tmpfs shm /dev/shm
chown postgres /data /dev/shm /run
chmod 700 /data
bin=/usr/lib/postgresql/15/bin
su postgres -c "$bin/initdb -D /data -A trust --no-sync --locale C" || exit 1
echo "host all all 10.0.0.1/32 trust" >>/data/pg_hba.conf
su postgres -c "exec $bin/postgres -D /data -k /run -h 10.0.0.2" &
`,
		// Protocol 3.0: a startup message, a query, and the end.
		client: `say '\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0Q\0\0\0\x2eselect sum(n) from generate_series(1,8) n\0X\0\0\0\x04'`,
		want:   []string{"SELECT 1"},
	},
	{
		name: "python", port: "8000",
		init:   "mkdir -p /srv\nseq 1000 >/srv/numbers\npython3 -m http.server --bind 0.0.0.0 --directory /srv 8000 &\n",
		client: `get /numbers | tail -n 1; get / | grep numbers`,
		want:   []string{"1000\n", `<a href="numbers">`},
	},
	{
		name: "go-hello", port: "80", init: "hello &\n", client: `get /gopher`, want: []string{"hello from Go, /gopher\n"},
	},
}

// appScript runs a guest on a fresh disk with a network of its own, waits for the
// server to listen and to be ready, asks it, and lets the guest end.
const appScript = `ip netns add app
ip netns exec app bash -ec '
ip tuntap add tap0 mode tap
ip addr add 10.0.0.1/24 dev tap0
ip link set tap0 up
cp "$APP.ext4" disk
timeout 170 uvm run "$KERNEL" -m "$MEMORY" --disk disk --net tap0 --cmdline "quiet ip=10.0.0.2::10.0.0.1:255.255.255.0::eth0:off" >out 2>&1 &
guest=$!
alive() { kill -0 $guest || { cat out; exit 1; }; }
say() { exec 3<>/dev/tcp/10.0.0.2/$PORT; printf "$1" >&3; cat <&3; exec 3>&-; }
get() { wget -q -O - "http://10.0.0.2:$PORT$1"; }
until (exec 3<>"/dev/tcp/10.0.0.2/$PORT") 2>/dev/null; do alive; sleep 0.2; done
while eval "$CLIENT" >answer; grep -aqE "LOADING|starting up" answer; do alive; sleep 0.2; done
cat answer
until (exec 3<>/dev/tcp/10.0.0.2/9) 2>/dev/null; do alive; sleep 0.2; done
wait $guest || { cat out; exit 1; }
cat out
'
ip netns del app`

// appEnd is the end of each init: whoever connects to port 9 ends the guest, and
// so does a server that ends by itself, or that Linux kills for its memory.
const appEnd = `server=$!
nc -l -p 9 >/dev/null &
wait -n
kill $server
wait $server
sync
mount -o remount,ro /
uvm-mark --poweroff
`

// TestApps serves clients from applications of Debian's, on lupine-general and
// with UVM_TEST_APPS=1 each on its own kernel.
func TestApps(t *testing.T) {
	t.Parallel()
	Require(t)
	all := os.Getenv(envApps) == "1"
	dir := t.TempDir()
	files := map[string]string{}
	var jobs []Job
	for _, c := range appCases {
		if !c.always && !all {
			continue
		}
		kernels := []string{"lupine-general"}
		if all {
			kernels = append(kernels, "lupine-base+"+c.name)
		}
		image := filepath.Join(dir, c.name+".ext4")
		if err := c.image(image); err != nil {
			t.Fatal(err)
		}
		files["/vm/"+c.name+".ext4"] = image
		for _, k := range kernels {
			file, err := LinuxKernel(k)
			if err != nil {
				t.Error(err)
				continue
			}
			files["/vm/"+k] = file
			jobs = append(jobs, c.job(k))
		}
	}
	Run(t, Options{Memory: 3 << 30, Files: files, Tools: []string{"bash", "ip"}}, jobs...)
}

// image makes the disk of the application.
func (c *appCase) image(file string) error {
	tree := ""
	var err error
	if c.name == "go-hello" {
		tree = file + ".tree"
		root, e := moduleRoot()
		if e != nil {
			return e
		}
		err = goBuild(root, tree+"/bin/hello", "./internal/lab/testdata/hello")
	} else {
		tree, err = AppTree(c.name)
	}
	if err != nil {
		return err
	}
	g := LinuxGuest{Tree: tree, Init: "export PATH=/bin:/sbin:/usr/bin:/usr/sbin\nuvm-mark 1\nip link set lo up\n" + c.init + appEnd}
	size := int64(64 << 20)
	if c.name == "postgres" {
		size = 256 << 20
	}
	return g.Ext4(file, size)
}

func (c *appCase) job(kernel string) Job {
	return Job{
		Name: c.name + " on " + kernel, Dir: "/vm", Argv: []string{"bash", "-ec", appScript}, Bound: 3 * time.Minute,
		Env: []string{"KERNEL=" + kernel, "APP=" + c.name, "PORT=" + c.port, "CLIENT=" + c.client, "MEMORY=" + cmp.Or(c.memory, "128M")},
		Check: func(t *testing.T, r *Result) {
			for _, w := range c.want {
				if !strings.Contains(r.Stdout, w) {
					t.Errorf("the answers have no %q", w)
				}
			}
			if r.Status != 0 || t.Failed() {
				t.Errorf("status %d; want 0\nstdout: %s\nstderr: %s", r.Status, r.Stdout, r.Stderr)
			}
			t.Logf("%.1f s in the lab", r.Elapsed.Seconds())
		},
	}
}
