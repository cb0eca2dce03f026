package registry

import "context"

// runFunc runs an operation on a target with retries. It is either Client.run, which is bounded by
// the time of a look-up, or retryPolicy.run, which waits while the registry is not ready.
type runFunc func(context.Context, target, func(context.Context, *session) error) error

// retryPolicy retries the requests of build attempts. A registry may not be ready for a while,
// because it restarts or limits the rate of requests. A request then waits: this uses up no retry,
// and the attempt does not fail. Each try is bounded; all tries together end with their context.
type retryPolicy struct {
	c *Client
	// onLongWait is called once for a long wait, with the error that caused it.
	onLongWait func(error)
}

// retryPolicy returns a policy that logs long waits with ref. The log does not contain the
// credentials of targets.
func (c *Client) retryPolicy(ref string, targets ...target) retryPolicy {
	return retryPolicy{c, func(err error) {
		var secrets []string
		for _, t := range targets {
			secrets = append(secrets, t.secrets()...)
		}
		c.opts.Logger.Warn("a build waits for a registry", "ref", ref, "err", examine(err, secrets...).err)
	}}
}

// run runs op on a target with retries and waits while the registry is not ready, until ctx ends.
// Each try is bounded by half of the client's Timeout.
func (p retryPolicy) run(ctx context.Context, t target, op func(context.Context, *session) error) error {
	return p.c.retryWhileNotReady(ctx, p.c.opts.Timeout/2, p.onLongWait, nil, func(ctx context.Context) error { return p.c.withSession(ctx, t, op) })
}
