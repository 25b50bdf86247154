package rootfs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// cacheVersion changes with what Build makes of one image.
const cacheVersion = "1"

// Fill writes the root file system of a container image into f, which is empty: a copy of the
// guest's own. Where an image with its digest lies in the folder cache it takes that one, else it
// makes it there first. args, if there are any, stand in place of the image's, and o.Start.Env is
// added to its environment. o.Source, Kind, Tag, Limits, Init and Progress count. It returns the ports
// that the image exposes, as 80/tcp, at most 64.
func Fill(ctx context.Context, f *os.File, cache string, o Options, args []string) (ports []string, err error) {
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, err
	}
	o.Limits.complete()
	config, err := readConfig(ctx, cache, o)
	if err != nil {
		return nil, err
	}
	if ports, err = exposedPorts(config); err != nil {
		return nil, fmt.Errorf("%s: the image's configuration: %w", o.Source, err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %x %x", cacheVersion, sha256.Sum256(config), sha256.Sum256(o.Init))
	file, err := cached(ctx, cache, hex.EncodeToString(h.Sum(nil)), o)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := copyFile(f, file); err != nil {
		return nil, fmt.Errorf("copy of the root file system: %w", err)
	}
	if len(args) == 0 && len(o.Start.Env) == 0 {
		return ports, nil
	}
	return ports, restart(ctx, f, cache, args, o.Start.Env)
}

// exposedPorts lists the ports of an image's configuration in their order.
func exposedPorts(config []byte) ([]string, error) {
	cfg, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		return nil, err
	}
	var ports []string
	for p := range cfg.Config.ExposedPorts {
		if !strings.Contains(p, "/") {
			p += "/tcp"
		}
		if portForm.MatchString(p) { // what is none is nobody's to reach
			ports = append(ports, p)
		}
	}
	slices.SortFunc(ports, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	return ports[:min(len(ports), 64)], nil
}

// portForm is a port or a range of them, with its protocol.
var portForm = regexp.MustCompile(`^[0-9]{1,5}(-[0-9]{1,5})?/(tcp|udp|sctp)$`)

// cached returns the image that key names, and makes it if it is not there. key is the digest of what Build would make: of
// the image's configuration, which has the digests of all layers in it, and of what uvm adds.
func cached(ctx context.Context, cache, key string, o Options) (*os.File, error) {
	o.Output = filepath.Join(cache, key+".ext4")
	if f, err := os.Open(o.Output); !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	// Whoever starts the same image meanwhile waits here instead of making it as well.
	lock, err := os.OpenFile(filepath.Join(cache, key+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if err == nil {
			break
		}
		if err != unix.EINTR || ctx.Err() != nil {
			return nil, errors.Join(context.Cause(ctx), err)
		}
	}
	if f, err := os.Open(o.Output); !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	o.Start, o.Force = Start{}, true
	if err := Build(ctx, o); err != nil {
		return nil, err
	}
	return os.Open(o.Output)
}

// readConfig reads the image's configuration.
func readConfig(ctx context.Context, cache string, o Options) ([]byte, error) {
	src, err := openSource(o.Source, o.Kind, o.Limits.Entries)
	if err != nil {
		return nil, err
	}
	if src.kind != KindOCI && src.kind != KindDocker {
		return nil, fmt.Errorf("%s is not a container image: make a root file system of it with uvm rootfs, and give that with --disk", o.Source)
	}
	tmp, err := os.MkdirTemp(cache, ".uvm-rootfs-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	var img v1.Image
	switch {
	case src.kind == KindDocker:
		img, err = openDocker(src.open, src.sizes, o.Tag)
	case src.isDir:
		img, err = openLayout(src.path, o.Tag)
	default:
		if err = src.unpackLayout(filepath.Join(tmp, "layout"), NewSpool(ctx, tmp, o.Limits.Bytes, nil)); err == nil {
			img, err = openLayout(filepath.Join(tmp, "layout"), o.Tag)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Source, err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, fmt.Errorf("%s: the image's configuration: %w", o.Source, err)
	}
	return config, nil
}

// copyFile makes f a copy of from: blocks shared with it where the file system can, else of what
// is not a hole.
func copyFile(f, from *os.File) error {
	if unix.IoctlFileClone(int(f.Fd()), int(from.Fd())) == nil {
		return nil
	}
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := f.Truncate(info.Size()); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for off := int64(0); off < info.Size(); {
		data, err := unix.Seek(int(from.Fd()), off, unix.SEEK_DATA)
		if err == unix.ENXIO {
			return nil // holes up to the end
		}
		end := info.Size()
		switch err {
		case nil:
			end, err = unix.Seek(int(from.Fd()), data, unix.SEEK_HOLE)
		case unix.EINVAL: // the file system knows no holes
			data, err = off, nil
		}
		if err != nil {
			return err
		}
		if _, err := io.CopyBuffer(onlyWriter{io.NewOffsetWriter(f, data)}, io.NewSectionReader(from, data, end-data), buf); err != nil {
			return err
		}
		off = end
	}
	return nil
}

type onlyWriter struct{ io.Writer }

// restart changes the start description in f, a file system that nobody else has.
func restart(ctx context.Context, f *os.File, cache string, args, env []string) error {
	tmp, err := os.MkdirTemp(cache, ".uvm-rootfs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	tools, err := findTools(tmp, 1)
	if err != nil {
		return err
	}
	// The file may have no name; debugfs finds it among this process's descriptors.
	image := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	do := func(commands string) error {
		if err := os.WriteFile(filepath.Join(tmp, scriptName), []byte(commands), 0o600); err != nil {
			return err
		}
		return tools.run(ctx, "debugfs", nil, "-w", "-f", scriptName, image)
	}
	if err := do("dump " + StartPath + " old\n"); err != nil {
		return err
	}
	old, err := os.ReadFile(filepath.Join(tmp, "old"))
	if err != nil {
		return err
	}
	text, err := change(string(old), args, env)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, "new"), text, 0o600); err != nil {
		return err
	}
	return do("cd /" + ownDir + "\nrm start\nwrite new start\nset_inode_field start mode 0100444\n")
}
