package registry

import (
	"context"
	"time"
)

// Explain resolves a reference as Resolve does and records how. It uses no cached result and a
// session of its own. It blocks for at most the client's Timeout.
func (c *Client) Explain(ctx context.Context, ref, platform string, r Rights) Explanation {
	const op = "explain image"
	start := time.Now()
	var e Explanation
	named, err := ParseRef(ref)
	if err != nil {
		e.Err = err
		return e
	}
	e.Ref = named.String()
	want, err := parsePlatform(platform)
	if err != nil {
		e.Err = wrap(op, e.Ref, err, credential{})
		return e
	}
	e.Platform = platformName(want)
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	t, err := c.targetOf(ctx, named, pull, r)
	e.Host, e.Repository = t.host, t.path
	if err != nil {
		e.Err = wrapFor(op, e.Ref, err, t)
		return e
	}
	if _, why, ok := c.kept(named, want, r); ok {
		e.Cache = why
	} else if e.Cache = c.cacheRule(c.lookUpKey(e.Platform, named, t)); why != "" {
		e.Cache = why + "; " + e.Cache
	}
	tr := &trace{repositories: []string{t.path}}
	for _, m := range t.mirrors {
		tr.repositories = append(tr.repositories, m.path)
	}
	img, err := c.resolve(context.WithValue(ctx, traceKey{}, tr), t, named, want)
	if err != nil {
		e.Err = wrapFor(op, e.Ref, err, t)
	} else {
		img.Anonymous = t.anonymous()
		e.Image = img
	}
	tr.copyTo(&e)
	for i, p := range append(append([]target{}, t.mirrors...), t) {
		e.Endpoints = append(e.Endpoints, Endpoint{
			Host: p.host, Repository: p.path, Mirror: i < len(t.mirrors), Credential: p.cred.sourceName(),
			BreakerOpen: c.wire.breakers.of(c.canonical(p.host)).openFor(), Err: tr.errorOf(p, t.secrets()),
		})
	}
	e.Took = time.Since(start)
	return e
}

// cacheRule explains how the look-up cache affects a key.
func (c *Client) cacheRule(key string) string {
	if c.opts.CacheFor <= 0 {
		return "nothing is cached"
	}
	if _, left, ok := c.cache.get(key); ok {
		return "hit, valid for another " + left.Round(time.Millisecond).String()
	}
	return "miss: the registry is queried, and the result is cached for " + c.opts.CacheFor.String() + " or until this node pushes to the repository"
}
