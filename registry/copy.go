package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"
)

// Copy copies the image or index src, named by digest, byte for byte to the repository dstRepo, and
// returns the copy. It pushes by digest only and sets no tag. If both repositories are on one host,
// blobs are mounted. Other blobs are streamed through this process, in constant memory and with
// verified digests. Blobs that the destination has already are not sent. So a repeated Copy
// continues an interrupted one.
//
// Each request is bounded by the client's Timeout. The transfer of a blob fails when it stalls for
// that long. Both are retried. While a registry is not ready (see NotReady), Copy waits until ctx
// ends; it has no limit of its own.
//
// progress receives a line for each blob and manifest; errors of writing to it are ignored. Errors
// have type *Error: the kinds NotFound and Unauthorized concern src, PushRefused concerns dstRepo.
func (c *Client) Copy(ctx context.Context, src string, srcRights Rights, dstRepo string, dstRights Rights, progress io.Writer) (Image, error) {
	const op = "copy image"
	from, err := ParseRef(src)
	if err != nil {
		return Image{}, err
	}
	to, err := ParseRef(dstRepo)
	if err != nil {
		return Image{}, err
	}
	if _, ok := from.(reference.Digested); !ok {
		return Image{}, wrap(op, from.String(), &kindError{kind: Invalid, text: "the source of a copy must be named by digest"}, credential{})
	}
	if !reference.IsNameOnly(to) {
		return Image{}, wrap(op, to.String(), &kindError{kind: Invalid, text: "the destination of a copy must be a repository, without tag or digest"}, credential{})
	}
	cp := &copyJob{c: c, lines: &progressLines{w: progress}, to: to.String()}
	defer cp.lines.close()
	if cp.src, err = c.targetOf(ctx, from, pull, srcRights); err != nil {
		return Image{}, cp.wrap(op, from, to, err)
	}
	if cp.dst, err = c.targetOf(ctx, to, push, dstRights); err != nil {
		return Image{}, cp.wrap(op, from, to, destinationError{err})
	}
	img, err := cp.run(ctx, identifier(from))
	if err != nil {
		return Image{}, cp.wrap(op, from, to, err)
	}
	img.Ref = withDigest(to, img.Digest)
	img.Anonymous = cp.dst.cred.anonymous()
	return img, nil
}

// retryPolicy returns the policy for requests of the copy. A long wait is also shown in progress.
func (cp *copyJob) retryPolicy() retryPolicy {
	p := cp.c.retryPolicy(cp.to, cp.src, cp.dst)
	log := p.onLongWait
	p.onLongWait = func(err error) {
		log(err)
		cp.lines.line("waiting for the registry: %v", examine(err, append(cp.src.secrets(), cp.dst.secrets()...)...).err)
	}
	return p
}

// wrap makes an error safe to show. An error of the source concerns the image; an error of the
// destination concerns the install and becomes PushRefused.
func (cp *copyJob) wrap(op string, from, to reference.Named, err error) error {
	if d, ok := asDestination(err); ok {
		f := examine(d, append(cp.dst.secrets(), cp.src.secrets()...)...)
		switch f.kind {
		case NotFound, Unauthorized, Invalid, Refused, TooLarge, Unsupported:
			f.kind = PushRefused
		}
		return &Error{Kind: f.kind, Op: op + " to", Ref: to.String(), StatusCode: f.status, Err: f.err}
	}
	return wrapFor(op, from.String(), err, cp.src)
}

func (cp *copyJob) run(ctx context.Context, digest string) (Image, error) {
	root, err := cp.read(ctx, digest)
	if err != nil {
		return Image{}, err
	}
	cp.prepareMounts(ctx)
	there, err := cp.exists(ctx, root)
	if err != nil {
		return Image{}, err
	}
	manifests, err := cp.tree(ctx, root, 0, nil)
	if err != nil {
		return Image{}, err
	}
	blobs, size := uniqueBlobs(manifests)
	img := Image{Digest: root.digest, SizeBytes: size, MediaType: string(root.mediaType)}
	if there {
		cp.lines.done("manifest", root.digest, int64(len(root.raw)), "exists")
		return img, nil
	}
	if err := cp.blobs(ctx, blobs); err != nil {
		return Image{}, err
	}
	for _, m := range manifests { // children first: a registry refuses an index whose images are missing
		if err := cp.put(ctx, m); err != nil {
			return Image{}, err
		}
		cp.lines.done("manifest", m.digest, int64(len(m.raw)), "pushed")
	}
	return img, nil
}

// read fetches a manifest from the source.
func (cp *copyJob) read(ctx context.Context, digest string) (*manifest, error) {
	return manifestBy(ctx, cp.retryPolicy().run, cp.src, digest)
}

// tree appends to done all manifests below m, children before their parents, and m itself.
func (cp *copyJob) tree(ctx context.Context, m *manifest, depth int, done []*manifest) ([]*manifest, error) {
	if m.index == nil {
		return append(done, m), nil
	}
	if depth == maxIndexDepth {
		return nil, &kindError{kind: Unsupported, text: "its indexes are nested too deeply"}
	}
	for _, d := range m.index.Manifests {
		child, err := cp.read(ctx, d.Digest.String())
		if err != nil {
			return nil, err
		}
		if done, err = cp.tree(ctx, child, depth+1, done); err != nil {
			return nil, err
		}
	}
	return append(done, m), nil
}

// exists reports whether the destination has the manifest, and therefore everything that it refers
// to.
func (cp *copyJob) exists(ctx context.Context, m *manifest) (bool, error) {
	err := cp.destination(ctx, func(ctx context.Context, s *session) error {
		_, err := s.headManifest(ctx, m.digest)
		return err
	})
	if err == nil || errors.Is(err, errNoDigest) {
		return true, nil
	}
	if errors.Is(err, errNoHead) {
		_, err = manifestBy(ctx, cp.retryPolicy().run, cp.dst, m.digest)
		if err == nil {
			return true, nil
		}
	}
	switch f := examine(err); {
	case f.kind == NotFound, f.status == http.StatusForbidden: // some registries return 403 for a missing manifest
		return false, nil
	}
	return false, err
}

// put pushes a manifest to the destination.
func (cp *copyJob) put(ctx context.Context, m *manifest) error {
	defer cp.c.cache.invalidate(cp.c.repository(cp.dst)) // even if the push succeeded but its response was lost
	return cp.destination(ctx, func(ctx context.Context, s *session) error {
		return s.putManifest(ctx, m.digest, m)
	})
}

// destination runs op on the destination with retries, and marks its error.
func (cp *copyJob) destination(ctx context.Context, op func(context.Context, *session) error) error {
	if err := cp.retryPolicy().run(ctx, cp.dst, op); err != nil {
		return destinationError{err}
	}
	return nil
}

// prepareMounts lets the destination's session pull from the source too, if both are on one host,
// so that blobs can be mounted. If the destination's credential does not permit this, blobs are
// copied.
func (cp *copyJob) prepareMounts(ctx context.Context) {
	if cp.c.canonical(cp.src.host) != cp.c.canonical(cp.dst.host) || cp.src.path == cp.dst.path {
		return
	}
	t := cp.dst
	t.from = cp.src.path
	err := withTimeout(ctx, cp.c.opts.Timeout, func(ctx context.Context) error {
		return cp.c.run(ctx, t, func(context.Context, *session) error { return nil })
	})
	if err == nil {
		cp.dst = t
	}
}

// blobs copies blobs in parallel and stops at the first failure.
func (cp *copyJob) blobs(ctx context.Context, blobs []blob) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cp.c.opts.Parallel)
	for _, b := range blobs {
		g.Go(func() error { return cp.blob(ctx, b) })
	}
	return g.Wait()
}

// blob copies one blob with retries. Each try first checks whether the blob is there by now.
// Simultaneous copies of one blob between the same repositories with the same credentials share one
// transfer.
func (cp *copyJob) blob(ctx context.Context, b blob) error {
	digest := b.Digest.String()
	onRetry := func(err error, pause time.Duration) {
		secrets := append(cp.src.secrets(), cp.dst.secrets()...)
		cp.lines.retry(b.role, digest, b.Size, examine(err, secrets...).err, pause)
	}
	key := strings.Join([]string{digest, cp.c.sessionKey(cp.dst), cp.c.sessionKeys(cp.src)}, "\x00\x00\x00")
	how, err := cp.c.copies.do(ctx, key, func(ctx context.Context) (how string, err error) {
		src := cp.src
		err = cp.c.retryWhileNotReady(ctx, 0, cp.retryPolicy().onLongWait, onRetry, func(ctx context.Context) (err error) {
			how, err = cp.transfer(ctx, src, b)
			src.mirrors = nil // a mirror may have sent wrong bytes
			return err
		})
		if how == copied && err == nil {
			cp.c.wire.metrics.copied.Add(float64(b.Size))
		}
		return how, err
	})
	if err == nil {
		cp.lines.done(b.role, digest, b.Size, how)
	}
	return err
}
