package registry

import (
	"context"
	"errors"
	"strconv"
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
// What Options.Kept knows is answered without asking.
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
	if img, _, ok := c.kept(named, want, r); ok {
		c.wire.metrics.lookedUp(fromKept)
		return img, nil
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
		if m, err = c.ofPlatform(ctx, t, m, want, 1); err != nil {
			return Image{}, err
		}
	}
	return Image{Ref: withDigest(named, m.digest), Digest: m.digest, SizeBytes: m.size(), MediaType: string(m.mediaType)}, nil
}

// maxInnerIndexes bounds how many indexes of one index are asked for.
const maxInnerIndexes = 8

// ofPlatform finds the image for a platform in an index, and if it is not
// there itself in the indexes that the index names, in their order.
func (c *Client) ofPlatform(ctx context.Context, t target, m *manifest, want v1.Platform, depth int) (*manifest, error) {
	child, none := choose(m.index, want)
	if none == nil {
		traceOf(ctx).choice(why(m.index, child), platforms(m.index))
		image, err := c.manifest(ctx, t, child.Digest.String())
		if err == nil && image.image == nil {
			err = &kindError{kind: Unsupported, text: "its index names an index where it promised an image"}
		}
		return image, err
	}
	traceOf(ctx).choice("", platforms(m.index))
	if depth == maxIndexDepth {
		return nil, none
	}
	asked := 0
	for _, d := range m.index.Manifests {
		if asked == maxInnerIndexes {
			break
		}
		if !d.MediaType.IsIndex() || d.Platform != nil && !matches(*d.Platform, want) {
			continue
		}
		asked++
		inner, err := c.manifest(ctx, t, d.Digest.String())
		if err != nil {
			return nil, err
		}
		if inner.index == nil {
			return nil, &kindError{kind: Unsupported, text: "its index names an image where it promised an index"}
		}
		image, err := c.ofPlatform(ctx, t, inner, want, depth+1)
		if err == nil || examine(err).kind != NotFound {
			return image, err
		}
	}
	return nil, none
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
		return headBy(ctx, c.asking, t, named)
	})
}

// AwaitHead is Head for the work of attempts: it always asks the registry, and
// while that does not answer or wants to be left alone it waits, until ctx ends.
func (c *Client) AwaitHead(ctx context.Context, ref string, r Rights) (Image, error) {
	const op = "look up image"
	named, err := ParseRef(ref)
	if err != nil {
		return Image{}, err
	}
	t, err := c.targetOf(ctx, named, pull, r)
	if err != nil {
		return Image{}, wrapFor(op, named.String(), err, t)
	}
	img, err := headBy(ctx, c.patience(named.String(), t).asking, t, named)
	if err != nil {
		return Image{}, wrapFor(op, named.String(), err, t)
	}
	c.wire.metrics.lookedUp(fromRegistry)
	img.Anonymous = t.anonymous()
	return img, nil
}

func headBy(ctx context.Context, ask asks, t target, named reference.Named) (Image, error) {
	var d described
	err := ask(ctx, t, func(ctx context.Context, s *session) (err error) {
		d, err = s.headManifest(ctx, identifier(named))
		return err
	})
	if errors.Is(err, errNoDigest) || errors.Is(err, errNoHead) {
		m, err := manifestBy(ctx, ask, t, identifier(named))
		if err != nil {
			return Image{}, err
		}
		d = described{m.digest, string(m.mediaType)}
	} else if err != nil {
		return Image{}, err
	}
	return Image{Ref: withDigest(named, d.digest), Digest: d.digest, MediaType: d.mediaType}, nil
}

// lookUp answers from the cache, or merges look-ups of the same kind,
// reference and credentials.
func (c *Client) lookUp(ctx context.Context, op, kind string, named reference.Named, r Rights, fn func(context.Context, target) (Image, error)) (Image, error) {
	t, err := c.targetOf(ctx, named, pull, r)
	if err != nil {
		return Image{}, wrapFor(op, named.String(), err, t)
	}
	key := c.lookUpKey(kind, named, t)
	repository := c.repository(t)
	img, _, kept := c.answers.get(key)
	if kept {
		c.wire.metrics.lookedUp(fromCache)
	} else {
		c.wire.metrics.lookedUp(fromRegistry)
		version := c.answers.begin(repository)
		// The version is part of the key of the flight: one that began before a
		// push is not for those who come after it.
		flight := key + "\x00" + strconv.FormatUint(version, 36)
		img, err = merged(ctx, c.flights, flight, c.opts.Timeout, func(ctx context.Context) (Image, error) { return fn(ctx, t) })
		if err != nil {
			return Image{}, wrapFor(op, named.String(), err, t)
		}
		c.answers.put(key, repository, version, img)
	}
	img.Ref = withDigest(named, img.Digest)
	img.Anonymous = t.anonymous()
	return img, nil
}

func (c *Client) lookUpKey(kind string, named reference.Named, t target) string {
	return strings.Join([]string{kind, identifier(named), c.keys(t)}, "\x00")
}

// repository names a target's repository whatever its host is spelled like.
func (c *Client) repository(t target) string { return c.canonical(t.host) + "/" + t.path }

// Forget lets the next look-ups of a repository ask its registry: somebody
// else has pushed to it on our behalf. ref is any reference of it.
func (c *Client) Forget(ref string) {
	if named, err := ParseRef(ref); err == nil {
		c.answers.pushed(c.canonical(reference.Domain(named)) + "/" + reference.Path(named))
	}
}

// manifest fetches a manifest with retries.
func (c *Client) manifest(ctx context.Context, t target, identifier string) (*manifest, error) {
	return manifestBy(ctx, c.asking, t, identifier)
}

func manifestBy(ctx context.Context, ask asks, t target, identifier string) (m *manifest, err error) {
	err = ask(ctx, t, func(ctx context.Context, s *session) (err error) {
		m, err = s.getManifest(ctx, identifier)
		return err
	})
	return m, err
}

// wrapFor is wrap with all credentials of a target.
func wrapFor(op, ref string, err error, t target) error {
	f := examine(err, t.secrets()...)
	return &Error{Kind: f.kind, Op: op, Ref: ref, StatusCode: f.status, Err: f.err}
}

// wrap makes an error from upstream one that may be shown.
func wrap(op, ref string, err error, cred credential) error {
	f := examine(err, cred.secrets()...)
	return &Error{Kind: f.kind, Op: op, Ref: ref, StatusCode: f.status, Err: f.err}
}
