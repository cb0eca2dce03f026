package registry

import (
	"fmt"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

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
