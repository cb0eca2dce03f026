package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// maxIndexDepth bounds how deep indexes of indexes are followed.
const maxIndexDepth = 3

// Copy copies the image or index src, named by digest, to the repository
// dstRepo, byte for byte, and answers it there. It pushes by digest only and
// sets no tag. Blobs come by mount where both repositories are at one host,
// else through this process, in constant memory and with verified digests;
// those that are there already are not sent. So a copy that was cut off goes
// on where it was when it is asked for again.
//
// Every request has the client's Timeout, a blob's transfer may stand still for
// that long, and each is retried; a registry that does not answer or wants to be
// left alone is waited for. The copy as a whole ends with ctx. progress
// gets one line for each blob and manifest; its errors are ignored. Errors are
// *Error: the kinds NotFound and Unauthorized are about src, PushRefused is
// about dstRepo.
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
		return Image{}, wrap(op, from.String(), &kindError{kind: Invalid, text: "the source of a copy is named by digest"}, credential{})
	}
	if !reference.IsNameOnly(to) {
		return Image{}, wrap(op, to.String(), &kindError{kind: Invalid, text: "the destination of a copy is a repository, without tag or digest"}, credential{})
	}
	cp := &copying{c: c, lines: &progressLines{w: progress}, to: to.String()}
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

// copying is one copy.
type copying struct {
	c        *Client
	src, dst target
	lines    *progressLines
	to       string
}

// patience is how the copy asks.
func (cp *copying) patience() patience {
	p := cp.c.patience(cp.to, cp.src, cp.dst)
	log := p.told
	p.told = func(err error) {
		log(err)
		cp.lines.line("waits for the registry: %v", examine(err, append(cp.src.secrets(), cp.dst.secrets()...)...).err)
	}
	return p
}

// destinationError marks what failed at the destination.
type destinationError struct{ error }

func (e destinationError) Unwrap() error { return e.error }

// wrap tells whose fault it was: what a source refuses is about the image, but
// what a destination refuses is about the install.
func (cp *copying) wrap(op string, from, to reference.Named, err error) error {
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

func (cp *copying) run(ctx context.Context, digest string) (Image, error) {
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
	for _, m := range manifests { // children first: a registry refuses an index without them
		if err := cp.put(ctx, m); err != nil {
			return Image{}, err
		}
		cp.lines.done("manifest", m.digest, int64(len(m.raw)), "pushed")
	}
	return img, nil
}

// read fetches a manifest of the source.
func (cp *copying) read(ctx context.Context, digest string) (*manifest, error) {
	return manifestBy(ctx, cp.patience().asking, cp.src, digest)
}

// tree answers a manifest's children, theirs first, and the manifest.
func (cp *copying) tree(ctx context.Context, m *manifest, depth int, done []*manifest) ([]*manifest, error) {
	if m.index == nil {
		return append(done, m), nil
	}
	if depth == maxIndexDepth {
		return nil, &kindError{kind: Unsupported, text: "its indexes are nested too deep"}
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

// exists reports whether the destination has the manifest, and thus all that
// it names.
func (cp *copying) exists(ctx context.Context, m *manifest) (bool, error) {
	err := cp.destination(ctx, func(ctx context.Context, s *session) error {
		_, err := s.headManifest(ctx, m.digest)
		return err
	})
	if err == nil || errors.Is(err, errNoDigest) {
		return true, nil
	}
	if errors.Is(err, errNoHead) {
		_, err = manifestBy(ctx, cp.patience().asking, cp.dst, m.digest)
		if err == nil {
			return true, nil
		}
	}
	switch f := examine(err); {
	case f.kind == NotFound, f.status == http.StatusForbidden: // some answer so for what is not there yet
		return false, nil
	}
	return false, err
}

func (cp *copying) put(ctx context.Context, m *manifest) error {
	defer cp.c.answers.pushed(cp.c.repository(cp.dst)) // also if the answer was lost
	return cp.destination(ctx, func(ctx context.Context, s *session) error {
		return s.putManifest(ctx, m.digest, m)
	})
}

// destination asks the destination, with retries.
func (cp *copying) destination(ctx context.Context, op func(context.Context, *session) error) error {
	if err := cp.patience().asking(ctx, cp.dst, op); err != nil {
		return destinationError{err}
	}
	return nil
}

// prepareMounts makes the destination's session one that may pull from the
// source too, if they are at one host. Where the destination's credential
// does not reach so far, blobs are copied instead.
func (cp *copying) prepareMounts(ctx context.Context) {
	if cp.c.canonical(cp.src.host) != cp.c.canonical(cp.dst.host) || cp.src.path == cp.dst.path {
		return
	}
	t := cp.dst
	t.from = cp.src.path
	err := within(ctx, cp.c.opts.Timeout, func(ctx context.Context) error {
		return cp.c.asking(ctx, t, func(context.Context, *session) error { return nil })
	})
	if err == nil {
		cp.dst = t
	}
}

// blobs copies blobs in parallel and ends at the first failure.
func (cp *copying) blobs(ctx context.Context, blobs []blob) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cp.c.opts.Parallel)
	for _, b := range blobs {
		g.Go(func() error { return cp.blob(ctx, b) })
	}
	return g.Wait()
}

// blob copies one blob, with retries, each of which looks first whether it is
// there by now. Copies of the same blob between the same repositories with the
// same credentials share one transfer.
func (cp *copying) blob(ctx context.Context, b blob) error {
	digest := b.Digest.String()
	retrying := func(err error, pause time.Duration) {
		secrets := append(cp.src.secrets(), cp.dst.secrets()...)
		cp.lines.retry(b.role, digest, b.Size, examine(err, secrets...).err, pause)
	}
	key := strings.Join([]string{digest, cp.c.key(cp.dst), cp.c.keys(cp.src)}, "\x00\x00\x00")
	how, err := cp.c.copies.do(ctx, key, func(ctx context.Context) (how string, err error) {
		src := cp.src
		err = cp.c.outlasting(ctx, 0, cp.patience().told, retrying, func(ctx context.Context) (err error) {
			how, err = cp.transfer(ctx, src, b)
			src.mirrors = nil // one may have sent other bytes
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

// blob is a config or a layer.
type blob struct {
	v1.Descriptor
	role string
}

// uniqueBlobs answers the blobs of images, each once, and their total size.
// Layers that must not be distributed stay where their URLs say.
func uniqueBlobs(manifests []*manifest) (out []blob, size int64) {
	seen := map[v1.Hash]bool{}
	for _, m := range manifests {
		for i, d := range m.blobs() {
			if seen[d.Digest] || !d.MediaType.IsDistributable() && len(d.URLs) > 0 {
				continue
			}
			seen[d.Digest] = true
			size += d.Size
			role := "layer"
			if i == 0 {
				role = "config"
			}
			out = append(out, blob{d, role})
		}
	}
	return out, size
}
