package registry

import (
	"errors"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// copyJob is the state of one Copy.
type copyJob struct {
	c        *Client
	src, dst target
	lines    *progressLines
	to       string // the destination, for log messages
}

// blob is a config or a layer.
type blob struct {
	v1.Descriptor
	role string
}

// uniqueBlobs returns the blobs of all images, each once, and their total size in bytes. It leaves
// out layers that must not be distributed and have URLs of their own.
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

// destinationError marks an error of the destination of a copy.
type destinationError struct{ error }

func (e destinationError) Unwrap() error { return e.error }

// asDestination returns the error in a destinationError, and whether err contains one.
func asDestination(err error) (error, bool) {
	var d destinationError
	if errors.As(err, &d) {
		return d.error, true
	}
	return nil, false
}

// How a blob came to the destination, as in progress lines.
const (
	existed = "exists"
	mounted = "mounted"
	copied  = "copied"
)
