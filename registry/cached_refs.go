package registry

import "context"

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
