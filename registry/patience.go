package registry

import "context"

// asks is how a target is asked: at most for the time of a look-up, or with
// patience.
type asks func(context.Context, target, func(context.Context, *session) error) error

// patience is how the work of attempts asks: a registry that does not answer, as
// while it is started anew, or that wants to be left alone, costs time and no
// attempt. Each try has a limit, all of them end with their context.
type patience struct {
	c    *Client
	told func(error) // of a long wait
}

// patience is for work on ref, with the credentials of targets.
func (c *Client) patience(ref string, targets ...target) patience {
	return patience{c, func(err error) {
		var secrets []string
		for _, t := range targets {
			secrets = append(secrets, t.secrets()...)
		}
		c.opts.Logger.Warn("a build waits for a registry", "ref", ref, "err", examine(err, secrets...).err)
	}}
}

// asking is Client.asking with patience.
func (p patience) asking(ctx context.Context, t target, op func(context.Context, *session) error) error {
	return p.c.outlasting(ctx, p.c.opts.Timeout/2, p.told, nil, func(ctx context.Context) error { return p.c.with(ctx, t, op) })
}
