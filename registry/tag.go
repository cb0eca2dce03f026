package registry

import (
	"context"

	"github.com/distribution/reference"
)

// Tag puts the image src (repository@digest) under tag (repository:tag of the
// same repository). It is idempotent, and moves a tag that names another
// image. While the registry does not answer or wants to be left alone it waits,
// until ctx ends. Errors are *Error, of kind NotFound if src is not there.
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
	p := c.patience(to.String(), t)
	m, err := manifestBy(ctx, p.asking, t, identifier(from))
	if err != nil {
		return wrap(op, from.String(), err, t.cred)
	}
	defer c.answers.pushed(c.repository(t)) // also if the answer was lost
	if err := p.asking(ctx, t, func(ctx context.Context, s *session) error {
		return s.putManifest(ctx, identifier(to), m)
	}); err != nil {
		return wrap(op, to.String(), err, t.cred)
	}
	return nil
}
