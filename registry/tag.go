package registry

import (
	"context"

	"github.com/distribution/reference"
)

// Tag puts the image src (repository@digest) under tag (repository:tag of the
// same repository). It is idempotent, and moves a tag that names another
// image. It blocks for at most twice the client's Timeout: one to read, one to
// write. Errors are *Error, of kind NotFound if src is not there.
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
		return wrap(op, to.String(), &kindError{kind: Invalid, text: "a tag is put on a digest in the same repository, as in Tag(repository@digest, repository:tag)"}, credential{})
	}
	t, err := c.targetOf(ctx, to, push, r)
	if err != nil {
		return wrap(op, to.String(), err, t.cred)
	}
	var m *manifest
	if err := within(ctx, c.opts.Timeout, func(ctx context.Context) (err error) {
		m, err = c.manifest(ctx, t, identifier(from))
		return err
	}); err != nil {
		return wrap(op, from.String(), err, t.cred)
	}
	defer c.answers.pushed(c.repository(t)) // also if the answer was lost
	if err := within(ctx, c.opts.Timeout, func(ctx context.Context) error {
		return c.asking(ctx, t, func(ctx context.Context, s *session) error {
			return s.putManifest(ctx, identifier(to), m)
		})
	}); err != nil {
		return wrap(op, to.String(), err, t.cred)
	}
	return nil
}
