package verify

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

// Looker looks up images in a registry, without the service.
type Looker interface {
	// Digest returns the digest to which a ref resolves.
	Digest(ctx context.Context, ref string) (string, error)
}

// DockerLooker looks up images with the credentials of the user's docker configuration. It uses
// plain HTTP for hosts on loopback and for the hosts in Insecure.
type DockerLooker struct {
	Insecure []string
}

// parse returns the reference that a ref denotes.
func (d DockerLooker) parse(ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("%q is no image reference: %w", ref, err)
	}
	for _, h := range d.Insecure {
		if r.Context().RegistryStr() == h {
			return name.ParseReference(ref, name.Insecure)
		}
	}
	return r, nil
}

// Digest returns the digest to which a ref resolves.
func (d DockerLooker) Digest(ctx context.Context, ref string) (string, error) {
	r, err := d.parse(ref)
	if err != nil {
		return "", err
	}
	desc, err := remote.Head(r, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return "", fmt.Errorf("look for %s: %w", ref, err)
	}
	return desc.Digest.String(), nil
}

// Prepare pushes n images with the given number of layers of bytesEach bytes to a repository,
// tagged verify-LAYERS-NUMBER, and returns their refs. The contents depend only on these numbers,
// so that a repeated call uploads nothing.
func (d DockerLooker) Prepare(ctx context.Context, repository string, n, layers int, bytesEach int) ([]string, error) {
	refs := make([]string, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range n {
		refs[i] = fmt.Sprintf("%s:verify-%d-%d", repository, layers, i)
		g.Go(func() error {
			ref, err := d.parse(refs[i])
			if err != nil {
				return err
			}
			img, err := image(uint64(i), layers, bytesEach)
			if err != nil {
				return fmt.Errorf("make an image: %w", err)
			}
			if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
				return fmt.Errorf("push %s: %w", refs[i], err)
			}
			return nil
		})
	}
	return refs, g.Wait()
}

// image returns the image number seed of Prepare.
func image(seed uint64, layers, bytesEach int) (v1.Image, error) {
	var all []v1.Layer
	for l := range layers {
		content := make([]byte, bytesEach)
		_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(l), byte(layers)}).Read(content)
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("verify-%d", l), Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
		if _, err := tw.Write(content); err != nil {
			return nil, err
		}
		if err := tw.Close(); err != nil {
			return nil, err
		}
		all = append(all, static.NewLayer(b.Bytes(), types.OCIUncompressedLayer))
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), all...)
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	return mutate.ConfigFile(img, cf)
}
