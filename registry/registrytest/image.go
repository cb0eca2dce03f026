package registrytest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// RandomImage returns a linux/amd64 image whose layers have random content.
func RandomImage(t testing.TB, layers int, bytesPerLayer int64) v1.Image {
	t.Helper()
	img, err := random.Image(bytesPerLayer, int64(layers))
	if err != nil {
		t.Fatalf("make an image: %v", err)
	}
	return platform(t, img, v1.Platform{OS: "linux", Architecture: "amd64"})
}

func platform(t testing.TB, img v1.Image, p v1.Platform) v1.Image {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatalf("read an image's config: %v", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = p.OS, p.Architecture, p.Variant
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatalf("change an image's config: %v", err)
	}
	return img
}

// Index returns an OCI index with one random image for each platform (os/arch or os/arch/variant),
// in that order.
func Index(t testing.TB, platforms ...string) v1.ImageIndex {
	t.Helper()
	idx := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, s := range platforms {
		p, err := v1.ParsePlatform(s)
		if err != nil {
			t.Fatalf("parse platform: %v", err)
		}
		img := platform(t, RandomImage(t, 1, 1<<10), *p)
		idx = mutate.AppendManifests(idx, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}})
	}
	return idx
}

// BusyboxImage returns a linux/amd64 image that can run commands. It contains this machine's
// /bin/busybox (apt-get install busybox-static) with links for sh and the given commands.
func BusyboxImage(t testing.TB, commands ...string) v1.Image {
	t.Helper()
	binary, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("these tests need busybox: apt-get install busybox-static: %v", err)
	}
	files := map[string][]byte{"bin/busybox": binary, "etc/passwd": []byte("root:x:0:0:root:/root:/bin/sh\n")}
	layer := Layer(t, files, append([]string{"sh"}, commands...)...)
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatalf("make an image: %v", err)
	}
	img, err = mutate.Config(img, v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh"}})
	if err != nil {
		t.Fatalf("make an image: %v", err)
	}
	return platform(t, img, v1.Platform{OS: "linux", Architecture: "amd64"})
}

// Layer returns a layer of executable files, and of links in bin to bin/busybox.
func Layer(t testing.TB, files map[string][]byte, links ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	write := func(h *tar.Header, content []byte) {
		if err := w.WriteHeader(h); err != nil {
			t.Fatalf("make a layer: %v", err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatalf("make a layer: %v", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		write(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name]))}, files[name])
	}
	for _, l := range links {
		write(&tar.Header{Name: "bin/" + l, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	if err := w.Close(); err != nil {
		t.Fatalf("make a layer: %v", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatalf("make a layer: %v", err)
	}
	return layer
}

// Push pushes an image or an index to repository:tag (or repository@digest) of the registry and
// returns its digest.
func (r *Registry) Push(t testing.TB, repoTag string, img remote.Taggable) string {
	t.Helper()
	if err := remote.Push(r.ref(t, repoTag), img, r.auth()); err != nil {
		t.Fatalf("push %s: %v", repoTag, err)
	}
	return Digest(t, img)
}

// Digest returns the digest of an image or an index.
func Digest(t testing.TB, img remote.Taggable) string {
	t.Helper()
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatalf("read a manifest: %v", err)
	}
	h, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("hash a manifest: %v", err)
	}
	return h.String()
}

// Digest returns the digest of the manifest at repository:tag in the registry, "" if there is none.
func (r *Registry) Digest(t testing.TB, repoTag string) string {
	t.Helper()
	d, err := remote.Head(r.ref(t, repoTag), r.auth())
	if err != nil {
		return ""
	}
	return d.Digest.String()
}

// Pull reads a whole image with all layers. It fails the test unless every byte matches its digest.
func (r *Registry) Pull(t testing.TB, repoTag string) v1.Image {
	t.Helper()
	img, err := remote.Image(r.ref(t, repoTag), r.auth())
	if err != nil {
		t.Fatalf("pull %s: %v", repoTag, err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatalf("pull %s: %v", repoTag, err)
	}
	for _, l := range layers {
		if err := readAll(l); err != nil {
			t.Fatalf("pull a layer of %s: %v", repoTag, err)
		}
	}
	return img
}

func readAll(l v1.Layer) error {
	rc, err := l.Compressed()
	if err != nil {
		return err
	}
	defer func() { _ = rc.Close() }()
	if _, err := io.Copy(io.Discard, rc); err != nil {
		return fmt.Errorf("read layer: %w", err)
	}
	return nil
}

// Delete deletes the manifest at repository@digest.
func (r *Registry) Delete(t testing.TB, repoDigest string) {
	t.Helper()
	if err := remote.Delete(r.ref(t, repoDigest), r.auth()); err != nil {
		t.Fatalf("delete %s: %v", repoDigest, err)
	}
}

func (r *Registry) ref(t testing.TB, s string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(r.Addr + "/" + s)
	if err != nil {
		t.Fatalf("parse reference: %v", err)
	}
	return ref
}

// auth logs in as the first user, or as nobody if there are no users.
func (r *Registry) auth() remote.Option {
	for _, user := range slices.Sorted(maps.Keys(r.Users)) {
		return remote.WithAuth(&authn.Basic{Username: user, Password: r.Users[user]})
	}
	return remote.WithAuth(authn.Anonymous)
}
