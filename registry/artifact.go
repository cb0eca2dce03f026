package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"os"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// PutFile stores a file as the only layer of an OCI image at ref (repository:tag). digest is the
// digest of the file, `sha256:` and hex; the registry verifies it. Storing the same file again is
// cheap. A try fails when no byte moves for the client's Timeout; failed tries are repeated up to
// Options.Retries times. Errors have type *Error.
func (c *Client) PutFile(ctx context.Context, ref, path, digest string, r Rights) error {
	const op = "store file"
	named, err := ParseRef(ref)
	if err != nil {
		return err
	}
	t, err := c.targetOf(ctx, named, push, r)
	if err != nil {
		return wrap(op, ref, err, t.cred)
	}
	defer c.cache.invalidate(c.repository(t))
	layer, err := newFileLayer(path, digest)
	if err != nil {
		return wrap(op, ref, err, t.cred)
	}
	created := now()
	tag, err := name.NewTag(ref)
	if err != nil {
		return wrap(op, ref, &kindError{kind: Invalid, text: "the reference is not a tag"}, t.cred)
	}
	if err := c.retry(ctx, 0, nil, func(ctx context.Context) error {
		return c.withSession(ctx, t, func(ctx context.Context, s *session) error {
			ctx, watch := watchProgress(ctx, c.opts.Timeout)
			defer watch.stop()
			layer.watch = watch
			img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
			if err != nil {
				return err
			}
			img = mutate.Annotations(img, map[string]string{createdKey: created}).(v1.Image) // the documentation promises the same type
			return watch.stallError(remote.Write(tag, img, remote.WithContext(ctx), remote.WithTransport(s.client.Transport)))
		})
	}); err != nil {
		return wrap(op, ref, err, t.cred)
	}
	return nil
}

// OpenFile streams the file that PutFile stored at ref and verifies it against its digest. If a
// response breaks off, stalls or does not begin, the missing part is requested again. While the
// registry is not ready (see NotReady), OpenFile and Read wait until ctx ends. The caller closes
// the file. Errors have type *Error.
func (c *Client) OpenFile(ctx context.Context, ref string, r Rights) (io.ReadCloser, error) {
	const op = "read file"
	m, t, err := c.fileManifest(ctx, ref, pull, r, true)
	if err != nil {
		return nil, wrap(op, ref, err, t.cred)
	}
	layer := blob{m.image.Layers[0], "layer"}
	onLongWait := c.retryPolicy(ref, t).onLongWait
	src := &source{c: c, ctx: ctx, from: t, b: layer, onBreak: func(error, int64) {}, onLongWait: onLongWait}
	if err := c.retryWhileNotReady(ctx, 0, onLongWait, nil, func(context.Context) error { return src.open() }); err != nil {
		return nil, wrap(op, ref, err, t.cred)
	}
	return &storedFile{source: src, hash: sha256.New(), fail: func(err error) error { return wrap(op, ref, err, t.cred) }}, nil
}

// storedFile reads a stored file. The content is verified only once Read has returned io.EOF.
type storedFile struct {
	*source
	hash hash.Hash
	fail func(error) error
}

// Read implements io.Reader.
func (f *storedFile) Read(p []byte) (int, error) {
	n, err := f.source.Read(p)
	f.hash.Write(p[:n])
	switch {
	case err == nil:
	case err != io.EOF:
		err = f.fail(err)
	case hex.EncodeToString(f.hash.Sum(nil)) != f.b.Digest.Hex:
		err = f.fail(&kindError{kind: Unavailable, text: "the registry sent bytes that do not match the digest"})
	}
	return n, err
}

// fileLayer is a file as an uncompressed layer.
type fileLayer struct {
	path   string
	digest v1.Hash
	size   int64
	watch  *watch // receives the progress of reads; may be nil
}

var _ v1.Layer = fileLayer{}

func newFileLayer(path, digest string) (fileLayer, error) {
	h, err := v1.NewHash(digest)
	if err != nil {
		return fileLayer{}, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return fileLayer{}, err
	}
	return fileLayer{path: path, digest: h, size: st.Size()}, nil
}

func (l fileLayer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l fileLayer) DiffID() (v1.Hash, error)             { return l.digest, nil }
func (l fileLayer) Size() (int64, error)                 { return l.size, nil }
func (l fileLayer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }
func (l fileLayer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.path) }
func (l fileLayer) Compressed() (io.ReadCloser, error) {
	f, err := os.Open(l.path)
	if err != nil || l.watch == nil {
		return f, err
	}
	return &watchedFile{file: f, layer: l}, nil
}

// watchedFile reports the progress of an upload to the watch. It hides the file's WriteTo, which
// would bypass Read.
type watchedFile struct {
	file  *os.File
	layer fileLayer
}

// Read implements io.Reader.
func (f *watchedFile) Read(p []byte) (int, error) {
	n, err := f.file.Read(p)
	if f.layer.watch.moved(); err == io.EOF {
		f.layer.watch.committing(f.layer.size)
	}
	return n, err
}

// Close closes the file.
func (f *watchedFile) Close() error { return f.file.Close() }

// Credential returns the user and password that a request with these rights presents to a
// repository of a registry host. repository "" stands for any repository. Both results are empty if
// the request uses no credential. An empty user with a password means an identity token.
//
// Credential may run a credential helper or query a provider. It blocks for at most ten seconds, or
// until ctx ends. If the helper or provider fails, Credential returns an *Error and not an
// anonymous credential, because an anonymous request would fail later with a misleading reason.
func (c *Client) Credential(ctx context.Context, host, repository string, r Rights) (user, password string, err error) {
	cred, err := c.credentialFor(ctx, host, repository, r)
	if err != nil {
		return "", "", wrap("find the credential for", host, err, cred)
	}
	if cred.identityToken != "" {
		return "", cred.identityToken, nil
	}
	return cred.username, cred.password, nil
}
