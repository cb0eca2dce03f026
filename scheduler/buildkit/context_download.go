package buildkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// openDownload downloads the files of a context and checks their digests.
func (r *Runtime) openDownload(ctx context.Context, d *imagebuilderv1.DownloadContext, l layout) (*source, error) {
	return r.openFolder(l, func(root *os.Root) (modes, error) {
		if len(d.GetFiles()) > r.opts.ContextFiles {
			return nil, userFailure(fmt.Errorf("the build context has more than %d files", r.opts.ContextFiles))
		}
		left := r.opts.ContextBytes
		for _, f := range d.GetFiles() {
			n, err := r.download(ctx, root, d.GetTargetLocation(), f, left)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if err != nil {
				return nil, err
			}
			left -= n
		}
		return nil, nil
	})
}

// download downloads one file of at most limit bytes and returns its size. Its errors name the path
// and not the URL, because the URL may carry a signature.
func (r *Runtime) download(ctx context.Context, root *os.Root, dir string, f *imagebuilderv1.DownloadContext_File, limit int64) (int64, error) {
	name, err := memberPath(path.Join(dir, f.GetPath()))
	if err != nil {
		return 0, userFailure(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.GetUrl(), nil)
	if err != nil {
		return 0, userFailure(fmt.Errorf("the URL of %s is not valid", name))
	}
	resp, err := r.opts.HTTP.Do(req)
	if err != nil {
		return 0, infrastructureFailure(fmt.Errorf("download %s: %w", name, withoutURL(err)))
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or the error is returned already
	switch {
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return 0, infrastructureFailure(fmt.Errorf("download %s: the server returned status %d", name, resp.StatusCode))
	case resp.StatusCode != http.StatusOK:
		return 0, userFailure(fmt.Errorf("download %s: the server returned status %d", name, resp.StatusCode))
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return 0, userFailure(fmt.Errorf("cannot create the file %s in the build context: %w", name, err))
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, userFailure(fmt.Errorf("cannot create the file %s in the build context: %w", name, err))
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(file, sum), io.LimitReader(resp.Body, limit+1))
	err = errors.Join(err, file.Close())
	switch {
	case err != nil:
		return 0, infrastructureFailure(fmt.Errorf("download %s: %w", name, withoutURL(err)))
	case n > limit:
		return 0, userFailure(fmt.Errorf("the build context is larger than %d bytes", r.opts.ContextBytes))
	}
	if got := digestOf(sum); got != f.GetDigest() {
		return 0, userFailure(fmt.Errorf("%s has the digest %s, but the request says %s", name, got, f.GetDigest()))
	}
	return n, nil
}

func digestOf(h hash.Hash) string { return "sha256:" + hex.EncodeToString(h.Sum(nil)) }
