package registry

import (
	"context"
	"errors"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Image is an image or an index in a registry.
type Image struct {
	// Ref is the digest form, as in docker.io/library/ubuntu@sha256:...
	Ref string
	// Digest is the digest in Ref.
	Digest string
	// SizeBytes is the sum of the compressed layers and the config; 0 if not
	// known, as after Head.
	SizeBytes int64
	// MediaType is that of the manifest.
	MediaType string
	// Anonymous tells that no credential was used: everybody may see it.
	Anonymous bool
}

// Resolve answers the image that ref names for a platform (os/arch[/variant],
// "" for linux/amd64): the manifest itself if it is one image, the platform's
// manifest if it is an index. That is one request upstream, or two for an
// index. Equal look-ups with the same credential are merged.
//
// It blocks for at most the client's Timeout. Errors are *Error.
func (c *Client) Resolve(ctx context.Context, ref, platform string, r Rights) (Image, error) {
	const op = "resolve image"
	named, err := ParseRef(ref)
	if err != nil {
		return Image{}, err
	}
	want, err := parsePlatform(platform)
	if err != nil {
		return Image{}, wrap(op, named.String(), err, credential{})
	}
	return c.lookUp(ctx, op, platformName(want), named, r, func(ctx context.Context, t target) (Image, error) {
		return c.resolve(ctx, t, named, want)
	})
}

func (c *Client) resolve(ctx context.Context, t target, named reference.Named, want v1.Platform) (Image, error) {
	m, err := c.manifest(ctx, t, identifier(named))
	if err != nil {
		return Image{}, err
	}
	if m.index != nil {
		child, err := choose(m.index, want)
		if err != nil {
			return Image{}, err
		}
		if m, err = c.manifest(ctx, t, child.Digest.String()); err != nil {
			return Image{}, err
		}
		if m.image == nil {
			return Image{}, &kindError{kind: Unsupported, text: "its index names an index where it promised an image"}
		}
	}
	return Image{Ref: withDigest(named, m.digest), Digest: m.digest, SizeBytes: m.size(), MediaType: string(m.mediaType)}, nil
}

// Head tells whether exactly this ref exists, and its digest; of an index,
// that of the index. The error's kind is NotFound if it does not. Limits and
// merging are those of Resolve.
func (c *Client) Head(ctx context.Context, ref string, r Rights) (Image, error) {
	named, err := ParseRef(ref)
	if err != nil {
		return Image{}, err
	}
	return c.lookUp(ctx, "look up image", "head", named, r, func(ctx context.Context, t target) (Image, error) {
		return c.head(ctx, t, named)
	})
}

func (c *Client) head(ctx context.Context, t target, named reference.Named) (Image, error) {
	var d described
	err := c.asking(ctx, t, func(ctx context.Context, s *session) (err error) {
		d, err = s.headManifest(ctx, identifier(named))
		return err
	})
	if errors.Is(err, errNoDigest) {
		m, err := c.manifest(ctx, t, identifier(named))
		if err != nil {
			return Image{}, err
		}
		d = described{m.digest, string(m.mediaType)}
	} else if err != nil {
		return Image{}, err
	}
	return Image{Ref: withDigest(named, d.digest), Digest: d.digest, MediaType: d.mediaType}, nil
}

// lookUp merges look-ups of the same kind, reference and credential.
func (c *Client) lookUp(ctx context.Context, op, kind string, named reference.Named, r Rights, fn func(context.Context, target) (Image, error)) (Image, error) {
	t, err := c.targetOf(ctx, named, pull, r)
	if err != nil {
		return Image{}, wrap(op, named.String(), err, t.cred)
	}
	key := strings.Join([]string{kind, c.canonical(t.host), t.path, identifier(named), t.cred.identity(c.salt)}, "\x00")
	img, err := merged(ctx, c.flights, key, c.opts.Timeout, func(ctx context.Context) (Image, error) { return fn(ctx, t) })
	if err != nil {
		return Image{}, wrap(op, named.String(), err, t.cred)
	}
	img.Ref = withDigest(named, img.Digest)
	img.Anonymous = t.cred.anonymous()
	return img, nil
}

// manifest fetches a manifest with retries.
func (c *Client) manifest(ctx context.Context, t target, identifier string) (m *manifest, err error) {
	err = c.asking(ctx, t, func(ctx context.Context, s *session) (err error) {
		m, err = s.getManifest(ctx, identifier)
		return err
	})
	return m, err
}

// wrap makes an error from upstream one that may be shown.
func wrap(op, ref string, err error, cred credential) error {
	f := examine(err, cred.secrets()...)
	return &Error{Kind: f.kind, Op: op, Ref: ref, StatusCode: f.status, Err: f.err}
}
