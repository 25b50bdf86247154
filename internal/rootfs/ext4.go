package rootfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

const mib = 1 << 20

// Files in the spool's folder, beside the numbered ones.
const (
	imageName  = "image"
	scriptName = "script"
	confName   = "mke2fs.conf"
)

// features are those that Linux 5.10 and e2fsprogs 1.47 and later all know. Named one by one,
// so that no configuration of the host's changes the image.
const features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// mke2fsConf keeps mke2fs from warning that it has no configuration.
const mke2fsConf = `[defaults]
	blocksize = 4096
[fs_types]
	ext4 = {
		inode_size = 256
	}
	small = {
		inode_size = 256
	}
	floppy = {
		inode_size = 256
	}
	big = {
		inode_size = 256
	}
	huge = {
		inode_size = 256
	}
`

// usage is what a tree needs of a file system.
type usage struct {
	inodes, blocks int64
	newest         int64 // time
	identity       [sha256.Size]byte
}

// measure counts inodes and blocks, and takes the digest of all that the tree is.
func (t *Tree) measure() *usage {
	u := &usage{inodes: 1, newest: 1}
	h := sha256.New()
	seen := map[*Node]int64{}
	one := func(path string, n *Node) {
		first, again := seen[n]
		if again {
			fmt.Fprintf(h, "%q = %d\n", path, first)
			return
		}
		seen[n] = int64(len(seen))
		u.newest = max(u.newest, n.MTime)
		fmt.Fprintf(h, "%q %o %d:%d %d %q %d:%d", path, n.Mode, n.UID, n.GID, n.MTime, n.Target, n.Major, n.Minor)
		for _, name := range slices.Sorted(maps.Keys(n.XAttrs)) {
			fmt.Fprintf(h, " %q=%q", name, n.XAttrs[name])
		}
		u.inodes++
		u.blocks += int64(min(len(n.XAttrs), 1))
		switch {
		case n.Data != nil:
			fmt.Fprintf(h, " %d %x", n.Data.Size, n.Data.sum)
			// Holes cut a file into extents, of which an inode holds four and a block 340.
			u.blocks += n.Data.blocks + min(n.Data.blocks, 1+n.Data.blocks/300)
		case n.is(unix.S_IFLNK) && len(n.Target) >= 60:
			u.blocks++
		case n.is(unix.S_IFDIR):
			bytes := 0
			for name := range n.children {
				bytes += 8 + (len(name)+3)&^3
			}
			// The end of each block may be too short for the next name.
			u.blocks += int64(1 + bytes/(blockSize-12-264))
		}
		fmt.Fprintln(h)
	}
	one("", t.Root)
	_ = t.Walk(func(path, _ string, n *Node) error { one(path, n); return nil }, nil)
	h.Sum(u.identity[:0])
	return u
}

// geometry is what mke2fs is told.
type geometry struct {
	size, inodes, journal int64 // bytes, number, MiB
	uuid                  string
	time                  int64
}

// plan chooses sizes for what is used. size 0 means content and a quarter more, and 32 MiB.
func (u *usage) plan(size int64) (*geometry, error) {
	l := &geometry{time: u.newest, uuid: uuid(u.identity)}
	need := func(size int64) int64 {
		l.journal = 4
		if size >= 256*mib {
			l.journal = 16
		}
		if size >= 4096*mib {
			l.journal = 64
		}
		l.inodes = u.inodes + 11 + max(u.inodes/4, size/(32<<10), 256)
		groups := (size + 128*mib - 1) / (128 * mib)
		// Rounding in each group; bitmaps, copies of the superblock and of the descriptors; lost+found.
		return u.blocks*blockSize + l.inodes*256 + l.journal*mib + groups*(4*blockSize+blockSize+min(groups*64+blockSize, mib)) + 8*blockSize
	}
	if size == 0 {
		content := u.blocks * blockSize
		size = content + content/4 + 32*mib
		for range 3 { // the slack is free beside what the file system itself takes
			size = (need(size) + content/4 + 32*mib + mib - 1) &^ (mib - 1)
		}
	}
	size &^= blockSize - 1
	if least := (need(size) + mib - 1) &^ (mib - 1); size < least {
		return nil, fmt.Errorf("--size of %d MiB is too small: the files and the file system need %d MiB", size>>20, least>>20)
	}
	if size/blockSize > math.MaxUint32 || l.inodes > math.MaxUint32 {
		return nil, fmt.Errorf("%d MiB are too large for a file system of 2^32 blocks", size>>20)
	}
	l.size = size
	return l, nil
}

// uuid makes a version 8 UUID (RFC 9562, section 5.8) of a digest.
func uuid(sum [sha256.Size]byte) string {
	b := sum[:16]
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	s := hex.EncodeToString(b)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// writeExt4 writes the tree as an ext4 file system into the file named image in the spool's
// folder, with e2fsprogs. All of its programs work in that folder, on names of ours.
func (t *Tree) writeExt4(ctx context.Context, size int64, progress func(done, all int64)) error {
	u := t.measure()
	l, err := u.plan(size)
	if err != nil {
		return err
	}
	tools, err := findTools(t.spool.dir, l.time)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(t.spool.dir, confName), []byte(mke2fsConf), 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(t.spool.dir, imageName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(l.size); err != nil {
		return err
	}
	err = tools.run(ctx, "mke2fs", nil, "-q", "-F", "-t", "ext4", "-b", strconv.Itoa(blockSize), "-I", "256", "-m", "0", "-o", "Linux",
		"-N", strconv.FormatInt(l.inodes, 10), "-J", fmt.Sprintf("size=%d", l.journal), "-U", l.uuid, "-O", features,
		"-E", "root_owner=0:0,assume_storage_prezeroed=1,nodiscard,hash_seed="+l.uuid, imageName)
	if err != nil {
		return err
	}
	lines, err := t.writeScript()
	if err != nil {
		return err
	}
	if err := tools.run(ctx, "debugfs", func(done int64) { progress(done, lines) }, "-w", "-f", scriptName, imageName); err != nil {
		return err
	}
	// What is not whole does not get its name, whatever debugfs thinks of it.
	if err := tools.run(ctx, "e2fsck", nil, "-f", "-n", imageName); err != nil {
		return err
	}
	return f.Sync()
}
