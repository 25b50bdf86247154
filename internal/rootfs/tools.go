package rootfs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// HostError says that this machine lacks something.
type HostError struct{ Err error }

func (e *HostError) Error() string { return e.Err.Error() }
func (e *HostError) Unwrap() error { return e.Err }

// tools are the programs of e2fsprogs.
type tools struct {
	path map[string]string
	env  []string
	dir  string
}

func findTools(dir string, time int64) (*tools, error) {
	t := &tools{path: map[string]string{}, dir: dir}
	for _, name := range []string{"mke2fs", "debugfs", "e2fsck"} {
		file, err := exec.LookPath(name)
		for _, dir := range []string{"/usr/sbin/", "/sbin/"} { // where only root's PATH leads
			if err != nil {
				file, err = exec.LookPath(dir + name)
			}
		}
		if err != nil {
			return nil, &HostError{fmt.Errorf("%s is not there: install e2fsprogs", name)}
		}
		t.path[name] = file
	}
	// Nothing else of the caller's environment changes what they write.
	t.env = []string{"LC_ALL=C", "TZ=UTC", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "MKE2FS_CONFIG=" + confName, "E2FSCK_CONFIG=/dev/null", fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", time)}
	return t, nil
}

// run runs a program. All of them say what is wrong on stderr, after a line with their
// version; debugfs's status is 0 even then. each counts the lines of stdout that echo a
// command.
func (t *tools) run(ctx context.Context, name string, each func(int64), args ...string) error {
	cmd := exec.CommandContext(ctx, t.path[name], args...)
	cmd.Env, cmd.Dir = t.env, t.dir
	var stderr bytes.Buffer
	cmd.Stderr = &limited{&stderr, 1 << 16}
	var last bytes.Buffer
	out := &limited{&last, 4096}
	echo, in := io.Pipe()
	cmd.Stdout = in
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := bufio.NewReader(echo)
		for n := int64(0); ; {
			line, err := r.ReadString('\n')
			switch {
			case strings.HasPrefix(line, name+": "):
				if n++; each != nil && n%64 == 0 {
					each(n)
				}
			case name == "e2fsck":
				io.WriteString(out, line)
			}
			if err != nil {
				return
			}
		}
	}()
	err := cmd.Run()
	in.Close()
	<-done
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var words []string
	for line := range strings.Lines(stderr.String()) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, name+" 1.") && !slices.Contains(words, line) {
			words = append(words, line)
		}
	}
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		return &HostError{fmt.Errorf("%s: %w", name, err)}
	case len(words) > 0:
		return fmt.Errorf("%s: %s", name, strings.Join(words[:min(len(words), 3)], "; "))
	case err != nil:
		return fmt.Errorf("%s: %w: %.200s", name, err, strings.ReplaceAll(strings.TrimSpace(last.String()), "\n", "; "))
	}
	return nil
}

// limited keeps the first bytes only.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.left -= n
	if _, err := l.w.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}
