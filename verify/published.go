package verify

import (
	"context"
	"sync"
)

// checkImages looks up all published refs in the registry. A ref must have the digest of the last
// build that succeeded for it.
func (r *run) checkImages(ctx context.Context) []ImageCheck {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Patience)
	defer cancel()
	last := map[string]*ImageCheck{}
	version := map[string]uint64{}
	var refs []string
	for _, e := range r.ends {
		if e.Digest == "" || e.Phase != "succeeded" {
			continue
		}
		l := last[e.Ref]
		if l == nil {
			l = &ImageCheck{Ref: e.Ref}
			last[e.Ref] = l
			refs = append(refs, e.Ref)
		}
		// Compare versions: the ids of builds depend on the clocks of the leaders.
		if l.Builds++; e.Version >= version[e.Ref] {
			l.Build, l.Want, version[e.Ref] = e.Build, e.Digest, e.Version
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	out := make([]ImageCheck, len(refs))
	for i, ref := range refs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			l := *last[ref]
			var err error
			if l.Got, err = r.opts.Looker.Digest(ctx, ref); err != nil {
				l.Error = err.Error()
			}
			out[i] = l
		})
	}
	wg.Wait()
	return out
}
