package registry

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Resolve returns the image that ref names for a platform (os/arch[/variant]; "" for linux/amd64).
// If ref names an image, the platform is ignored. If ref names an index, Resolve returns the image
// for the platform. This takes one request upstream, or two for an index. Simultaneous look-ups
// that are equal and use the same credentials share one request.
//
// Resolve returns a result of Options.Kept, if there is one that the request may use, or a cached
// result without a request. It blocks for at most the client's Timeout. Errors have type *Error.
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

// maxInnerIndexes bounds how many nested indexes of one index are fetched.
const maxInnerIndexes = 8

// ofPlatform returns the image of an index for a platform. If the index has none, it searches the
// nested indexes in their order.
func (c *Client) ofPlatform(ctx context.Context, t target, m *manifest, want v1.Platform, depth int) (*manifest, error) {
	child, none := choose(m.index, want)
	if none == nil {
		traceOf(ctx).recordChoice(choiceReason(m.index, child), platforms(m.index))
		image, err := c.manifest(ctx, t, child.Digest.String())
		if err == nil && image.image == nil {
			err = &kindError{kind: Unsupported, text: "its index refers to an index that it describes as an image"}
		}
		return image, err
	}
	traceOf(ctx).recordChoice("", platforms(m.index))
	if depth == maxIndexDepth {
		return nil, none
	}
	fetched := 0
	for _, d := range m.index.Manifests {
		if fetched == maxInnerIndexes {
			break
		}
		if !d.MediaType.IsIndex() || d.Platform != nil && !matches(*d.Platform, want) {
			continue
		}
		fetched++
		inner, err := c.manifest(ctx, t, d.Digest.String())
		if err != nil {
			return nil, err
		}
		if inner.index == nil {
			return nil, &kindError{kind: Unsupported, text: "its index refers to an image that it describes as an index"}
		}
		image, err := c.ofPlatform(ctx, t, inner, want, depth+1)
		if err == nil || examine(err).kind != NotFound {
			return image, err
		}
	}
	return nil, none
}

// Head checks that ref exists and returns its digest. For an index this is the digest of the index
// itself. If ref does not exist, the error has the kind NotFound. Time limit, caching and sharing
// are those of Resolve.
func (c *Client) Head(ctx context.Context, ref string, r Rights) (Image, error) {
	named, err := ParseRef(ref)
	if err != nil {
		return Image{}, err
	}
	return c.lookUp(ctx, "look up image", "head", named, r, func(ctx context.Context, t target) (Image, error) {
		return headBy(ctx, c.run, t, named)
	})
}

// AwaitHead is Head for build attempts. It always queries the registry and uses no cache. While the
// registry is not ready (see NotReady), it waits until ctx ends.
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
	img, err := headBy(ctx, c.retryPolicy(named.String(), t).run, t, named)
	if err != nil {
		return Image{}, wrapFor(op, named.String(), err, t)
	}
	c.wire.metrics.lookedUp(fromRegistry)
	img.Anonymous = t.anonymous()
	return img, nil
}

// headBy looks a manifest up by HEAD, and by GET if the registry does not support HEAD or returns
// no digest.
func headBy(ctx context.Context, run runFunc, t target, named reference.Named) (Image, error) {
	var d described
	err := run(ctx, t, func(ctx context.Context, s *session) (err error) {
		d, err = s.headManifest(ctx, identifier(named))
		return err
	})
	if errors.Is(err, errNoDigest) || errors.Is(err, errNoHead) {
		m, err := manifestBy(ctx, run, t, identifier(named))
		if err != nil {
			return Image{}, err
		}
		d = described{m.digest, string(m.mediaType)}
	} else if err != nil {
		return Image{}, err
	}
	return Image{Ref: withDigest(named, d.digest), Digest: d.digest, MediaType: d.mediaType}, nil
}

// lookUp returns a cached result, or calls fn. Simultaneous look-ups of the same kind, reference
// and credentials share one call.
func (c *Client) lookUp(ctx context.Context, op, kind string, named reference.Named, r Rights, fn func(context.Context, target) (Image, error)) (Image, error) {
	t, err := c.targetOf(ctx, named, pull, r)
	if err != nil {
		return Image{}, wrapFor(op, named.String(), err, t)
	}
	key := c.lookUpKey(kind, named, t)
	repository := c.repository(t)
	img, _, cached := c.cache.get(key)
	if cached {
		c.wire.metrics.lookedUp(fromCache)
	} else {
		c.wire.metrics.lookedUp(fromRegistry)
		version := c.cache.version(repository)
		// The version is part of the key, so that a look-up after a push does not share a call that
		// began before it.
		callKey := key + "\x00" + strconv.FormatUint(version, 36)
		img, err = shareCall(ctx, c.calls, callKey, c.opts.Timeout, func(ctx context.Context) (Image, error) { return fn(ctx, t) })
		if err != nil {
			return Image{}, wrapFor(op, named.String(), err, t)
		}
		c.cache.put(key, repository, version, img)
	}
	img.Ref = withDigest(named, img.Digest)
	img.Anonymous = t.anonymous()
	return img, nil
}

func (c *Client) lookUpKey(kind string, named reference.Named, t target) string {
	return strings.Join([]string{kind, identifier(named), c.sessionKeys(t)}, "\x00")
}

// repository returns the canonical host and path of a target's repository.
func (c *Client) repository(t target) string { return c.canonical(t.host) + "/" + t.path }

// Forget removes a repository from the look-up cache, because another process has pushed to it. ref
// is any reference in the repository.
func (c *Client) Forget(ref string) {
	if named, err := ParseRef(ref); err == nil {
		c.cache.invalidate(c.canonical(reference.Domain(named)) + "/" + reference.Path(named))
	}
}

// manifest fetches a manifest with retries.
func (c *Client) manifest(ctx context.Context, t target, identifier string) (*manifest, error) {
	return manifestBy(ctx, c.run, t, identifier)
}

// manifestBy fetches a manifest by run.
func manifestBy(ctx context.Context, run runFunc, t target, identifier string) (m *manifest, err error) {
	err = run(ctx, t, func(ctx context.Context, s *session) (err error) {
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

// wrap turns an upstream error into an *Error, which is safe to show.
func wrap(op, ref string, err error, cred credential) error {
	f := examine(err, cred.secrets()...)
	return &Error{Kind: f.kind, Op: op, Ref: ref, StatusCode: f.status, Err: f.err}
}
