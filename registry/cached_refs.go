package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Kept is a reference that was resolved in advance with the install's credentials. Resolve uses it
// for a request that may use the install's credential for the host, and for every request if it was
// resolved without a credential. This needs no call to the registry.
type Kept struct {
	Digest    string
	SizeBytes int64
	// Anonymous reports that it was resolved without a credential.
	Anonymous bool
	// Age is the time since it was resolved.
	Age time.Duration
}

// kept looks a reference up in Options.Kept. why explains the decision for people; it is empty if
// the reference is not known there.
func (c *Client) kept(named reference.Named, want v1.Platform, r Rights) (img Image, why string, ok bool) {
	if _, digested := named.(reference.Digested); digested || c.opts.Kept == nil {
		return Image{}, "", false
	}
	k, there := c.opts.Kept(reference.TagNameOnly(named).String())
	if !there {
		return Image{}, "", false
	}
	age := k.Age.Round(time.Millisecond)
	switch {
	case platformName(want) != defaultPlatform:
		return Image{}, fmt.Sprintf("the cluster keeps it resolved, but for %s only", defaultPlatform), false
	case k.Anonymous:
		why = fmt.Sprintf("hit: the cluster resolved it %s ago without a credential", age)
	case c.mayUseInstallCredential(c.canonical(reference.Domain(named)), r):
		why = fmt.Sprintf("hit: the cluster resolved it %s ago with the install's credential, which the request may use", age)
	default:
		return Image{}, "the cluster keeps it resolved with a credential that the request may not use", false
	}
	return Image{Ref: withDigest(named, k.Digest), Digest: k.Digest, SizeBytes: k.SizeBytes, Anonymous: k.Anonymous}, why, true
}

// Refresh resolves ref for linux/amd64 with the install's credentials. It works like Resolve but
// always queries the registry. It blocks for at most the client's Timeout. Errors have type *Error.
func (c *Client) Refresh(ctx context.Context, ref string) (Image, error) {
	named, err := ParseRef(ref)
	if err != nil {
		return Image{}, err
	}
	want, err := parsePlatform("")
	if err != nil {
		return Image{}, err
	}
	t, err := c.targetOf(ctx, named, pull, Rights{AllowAll: true})
	if err != nil {
		return Image{}, wrapFor("refresh image", named.String(), err, t)
	}
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	img, err := c.resolve(ctx, t, named, want)
	if err != nil {
		return Image{}, wrapFor("refresh image", named.String(), err, t)
	}
	c.wire.metrics.lookedUp(fromRegistry)
	img.Anonymous = t.anonymous()
	return img, nil
}
