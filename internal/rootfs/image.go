package rootfs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// maxJSON bounds a manifest, an index and a configuration, which are read whole.
const maxJSON = 4 << 20

// maxNested is how many indexes may lie in each other.
const maxNested = 3

// addImage applies the layers of an image, each checked against its digest in the
// configuration, and returns the configuration.
func (t *Tree) addImage(img v1.Image) (*v1.Config, error) {
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("the image's configuration: %w", err)
	}
	if cfg.OS != "" && cfg.OS != "linux" || cfg.Architecture != "" && cfg.Architecture != "amd64" {
		return nil, fmt.Errorf("the image is for %s/%s; uvm runs linux/amd64", cfg.OS, cfg.Architecture)
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, fmt.Errorf("the image's layers: %w", err)
	}
	if len(layers) != len(cfg.RootFS.DiffIDs) {
		return nil, fmt.Errorf("the image has %d layers, and digests of %d", len(layers), len(cfg.RootFS.DiffIDs))
	}
	if len(layers) == 0 {
		return nil, errors.New("the image has no layers")
	}
	for i, l := range layers {
		if err := t.addLayer(l, cfg.RootFS.DiffIDs[i]); err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	return &cfg.Config, nil
}

func (t *Tree) addLayer(l v1.Layer, want v1.Hash) error {
	r, err := l.Uncompressed()
	if err != nil {
		return readable(err)
	}
	defer r.Close()
	sum := sha256.New()
	if err := t.AddTar(io.TeeReader(r, sum), true); err != nil {
		return err
	}
	return checkSum(want, sum.Sum(nil))
}

func checkSum(want v1.Hash, got []byte) error {
	if want.Algorithm != "sha256" || want.Hex != hex.EncodeToString(got) {
		return fmt.Errorf("it has the digest sha256:%x; want %s", got, want)
	}
	return nil
}

// openDocker opens what `docker save` wrote. sizes are those of the archive's regular files.
func openDocker(open tarball.Opener, sizes map[string]int64, tag string) (v1.Image, error) {
	small := func(file string) error {
		if size, ok := sizes[filepath.Clean(file)]; !ok || size > maxJSON {
			return fmt.Errorf("%q is no file of at most %d MiB in the archive", file, maxJSON>>20)
		}
		return nil
	}
	if err := small("manifest.json"); err != nil {
		return nil, err
	}
	images, err := tarball.LoadManifest(open)
	if err != nil {
		return nil, fmt.Errorf("manifest.json: %w", err)
	}
	var tags []string
	for _, img := range images {
		tags = append(tags, img.RepoTags...)
		if err := small(img.Config); err != nil {
			return nil, fmt.Errorf("the image's configuration: %w", err)
		}
	}
	var chosen *name.Tag
	switch {
	case len(images) == 0:
		return nil, errors.New("no image in the archive")
	case tag != "":
		c, err := name.NewTag(tag)
		if err != nil {
			return nil, fmt.Errorf("--tag: %w", err)
		}
		chosen = &c
	case len(images) > 1:
		return nil, fmt.Errorf("the archive holds %d images: choose one with --tag (%s)", len(images), strings.Join(tags, ", "))
	}
	img, err := tarball.Image(open, chosen)
	if err != nil {
		return nil, fmt.Errorf("docker archive: %w", readable(err))
	}
	return img, nil
}

// refName is the annotation that names an image in an index (OCI image specification, "Image Layout").
const refName = "org.opencontainers.image.ref.name"

// openLayout opens an OCI image layout and checks the digests of its manifests. (The
// configuration's is checked here too; the layers' while they are read.)
func openLayout(dir, tag string) (v1.Image, error) {
	for _, file := range []string{"oci-layout", "index.json"} {
		info, err := os.Lstat(filepath.Join(dir, file))
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || info.Size() > maxJSON {
			return nil, fmt.Errorf("%s is no file of at most %d MiB", file, maxJSON>>20)
		}
	}
	path, err := layout.FromPath(dir)
	if err != nil {
		return nil, err
	}
	idx, err := path.ImageIndex()
	if err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	l := &layoutReader{dir: dir, tag: tag}
	if err := l.collect(idx, false, 0); err != nil {
		return nil, err
	}
	switch {
	case len(l.found) == 1:
		return l.found[0], nil
	case len(l.found) > 1:
		return nil, fmt.Errorf("the layout holds %d images: choose one with --tag (%s)", len(l.found), strings.Join(l.names, ", "))
	case tag != "":
		return nil, fmt.Errorf("no image for linux/amd64 is called %q in the layout (%s)", tag, strings.Join(l.names, ", "))
	case len(l.other) > 0:
		return nil, fmt.Errorf("the images are for %s; uvm runs linux/amd64", strings.Join(l.other, ", "))
	}
	return nil, errors.New("no image in the layout")
}

type layoutReader struct {
	dir, tag     string
	found        []v1.Image
	names, other []string // names of all images; platforms that are not ours
}

// collect finds the images that come into question. named says that the tag has been met above.
func (l *layoutReader) collect(idx v1.ImageIndex, named bool, depth int) error {
	if depth > maxNested {
		return fmt.Errorf("more than %d indexes in each other", maxNested)
	}
	m, err := idx.IndexManifest()
	if err != nil {
		return fmt.Errorf("the image index: %w", err)
	}
	for _, d := range m.Manifests {
		ref := d.Annotations[refName]
		if ref != "" {
			l.names = append(l.names, ref)
		}
		ours := named || l.tag == "" || ref == l.tag
		if p := d.Platform; p != nil && (p.OS != "linux" || p.Architecture != "amd64") {
			if p.OS != "unknown" { // what builders add about an image
				l.other = append(l.other, p.OS+"/"+p.Architecture)
			}
			continue
		}
		switch {
		case d.MediaType.IsIndex():
			if err := l.blob(d.Digest); err != nil {
				return err
			}
			below, err := idx.ImageIndex(d.Digest)
			if err != nil {
				return err
			}
			if err := l.collect(below, ours, depth+1); err != nil {
				return err
			}
		case d.MediaType.IsImage() && ours:
			if err := l.blob(d.Digest); err != nil {
				return err
			}
			img, err := idx.Image(d.Digest)
			if err != nil {
				return err
			}
			manifest, err := img.Manifest()
			if err != nil {
				return fmt.Errorf("manifest %s: %w", d.Digest, err)
			}
			if err := l.blob(manifest.Config.Digest); err != nil {
				return err
			}
			l.found = append(l.found, img)
		}
	}
	return nil
}

// blob checks size and digest of a blob that is going to be read whole.
func (l *layoutReader) blob(h v1.Hash) error {
	file := filepath.Join(l.dir, "blobs", h.Algorithm, h.Hex)
	info, err := os.Lstat(file)
	if err != nil {
		return fmt.Errorf("blob %s: %w", h, errors.Unwrap(err))
	}
	if !info.Mode().IsRegular() || info.Size() > maxJSON {
		return fmt.Errorf("blob %s is no file of at most %d MiB", h, maxJSON>>20)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	if err := checkSum(h, sum[:]); err != nil {
		return fmt.Errorf("blob %s is damaged: %w", h, err)
	}
	return nil
}
