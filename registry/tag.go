package registry

import (
	"context"

	"github.com/distribution/reference"
)

// Tag points tag (repository:tag) to the image src (repository@digest) in the same repository. It
// is idempotent, and moves an existing tag. While the registry is not ready (see NotReady), Tag
// waits until ctx ends. Errors have type *Error, with the kind NotFound if src does not exist.
func (c *Client) Tag(ctx context.Context, src, tag string, r Rights) error {
	const op = "tag image"
	from, err := ParseRef(src)
	if err != nil {
		return err
	}
	to, err := ParseRef(tag)
	if err != nil {
		return err
	}
	_, byDigest := from.(reference.Digested)
	_, byTag := to.(reference.Tagged)
	if !byDigest || !byTag || from.Name() != to.Name() {
		return wrap(op, to.String(), &kindError{kind: Invalid, text: "a tag must point to a digest in the same repository, as in Tag(repository@digest, repository:tag)"}, credential{})
	}
	t, err := c.targetOf(ctx, to, push, r)
	if err != nil {
		return wrap(op, to.String(), err, t.cred)
	}
	p := c.retryPolicy(to.String(), t)
	m, err := manifestBy(ctx, p.run, t, identifier(from))
	if err != nil {
		return wrap(op, from.String(), err, t.cred)
	}
	defer c.cache.invalidate(c.repository(t)) // even if the push succeeded but its response was lost
	if err := p.run(ctx, t, func(ctx context.Context, s *session) error {
		return s.putManifest(ctx, identifier(to), m)
	}); err != nil {
		return wrap(op, to.String(), err, t.cred)
	}
	return nil
}
