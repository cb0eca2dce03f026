package wsmanager

import (
	"context"
	"sync"

	"github.com/image-builder-ha/image-builder/builds"
)

// formerImage is the image at the workspace ref before the build. If the image there differs after
// the build, the build has pushed.
type formerImage struct {
	mu     sync.Mutex
	known  bool
	digest string // empty if there was no image
}

// record reads the current image.
func (f *formerImage) record(ctx context.Context, images Images, ref string) {
	img, err := images(ctx, ref)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = err == nil || builds.ImageErrorKindOf(err) == builds.ImageNotFound
	if f.digest = ""; err == nil {
		f.digest = img.Digest
	}
}

func (f *formerImage) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = false
}

// differs reports whether digest is known to differ from the former image.
func (f *formerImage) differs(digest string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known && f.digest != digest
}

// same reports whether digest is known to be the former image.
func (f *formerImage) same(digest string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known && f.digest == digest
}
