package refcache

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	// retryInterval is the pause after a proposal that was refused or failed.
	retryInterval = 100 * time.Millisecond
	// refreshGather is how long results are gathered before they are committed
	// together.
	refreshGather = 50 * time.Millisecond
	// maxRefreshError bounds the text of a failure in the state, in bytes.
	maxRefreshError = 512
)

// Refreshed is what a reference resolved to.
type Refreshed struct {
	Digest    string
	SizeBytes int64
	// Anonymous tells that no credential was used.
	Anonymous bool
}

// Refresher resolves the cached references that the leader gives to this node.
type Refresher struct {
	Node  string
	Store *builds.Store
	Raft  builds.Raft
	Log   *slog.Logger
	// Resolve asks the registry, with the install's credentials, within a time
	// limit of its own. Its errors may be shown.
	Resolve func(ctx context.Context, ref string) (Refreshed, error)
	// Told is called for each result that this node has, nil for nobody.
	Told func(err error)

	mu      sync.Mutex
	running map[string]uint64 // reference to its turn here
	results []*buildsv1.RecordRefreshes_Result
	news    chan struct{} // capacity 1
}

// Run resolves until ctx is done, tells the state what it has found out, for a
// second at most, and waits for the look-ups that it began. References whose
// results are lost are given to others once this process is known to be gone.
func (r *Refresher) Run(ctx context.Context) {
	r.running, r.news = map[string]uint64{}, make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.commit(ctx) })
	for ctx.Err() == nil {
		changed := r.Store.CachedChanged()
		for _, c := range r.mine() {
			wg.Go(func() { r.resolve(ctx, c) })
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// mine answers the turns of this node that it has not begun.
func (r *Refresher) mine() (begin []*imagebuilderv1.CachedRef) {
	// The lock comes first: a turn that the state still shows has not been
	// forgotten then by committed, which is called once the state shows its end.
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []*imagebuilderv1.CachedRef
	r.Store.Read(func(st *builds.State) { all = st.CachedRefs() })
	for _, c := range all {
		if c.RefreshingBy == r.Node && r.running[c.Ref] != c.Turn {
			r.running[c.Ref] = c.Turn
			begin = append(begin, c)
		}
	}
	return begin
}

func (r *Refresher) resolve(ctx context.Context, c *imagebuilderv1.CachedRef) {
	got, err := r.Resolve(ctx, c.Ref)
	if ctx.Err() != nil {
		return // the process ends; that is no failure of the reference
	}
	res := &buildsv1.RecordRefreshes_Result{Ref: c.Ref, Turn: c.Turn}
	if err != nil {
		res.Error = shorten(err.Error())
		r.Log.Warn("cannot refresh a cached reference; its last digest stays for a while", "ref", c.Ref, "failures", c.Failures+1, "err", err)
	} else {
		res.Digest, res.SizeBytes, res.Anonymous = got.Digest, got.SizeBytes, got.Anonymous
		if c.Digest != got.Digest {
			r.Log.Info("a cached reference has another digest", "ref", c.Ref, "digest", got.Digest, "before", c.Digest)
		}
	}
	if r.Told != nil {
		r.Told(err)
	}
	r.mu.Lock()
	r.results = append(r.results, res)
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// commit tells the state what was found out, many results at a time. While
// there is no leader they are kept.
func (r *Refresher) commit(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			r.last(context.WithoutCancel(ctx))
			return
		case <-r.news:
		}
		ctxutil.Sleep(ctx, refreshGather)
		for ctx.Err() == nil {
			batch := r.batch()
			if len(batch) == 0 {
				break
			}
			if _, _, err := builds.Propose(ctx, r.Raft, &buildsv1.RecordRefreshes{Results: batch}); err != nil {
				if ctx.Err() == nil {
					r.Log.Warn("cannot tell the cluster what references resolved to, will try again", "results", len(batch), "err", err)
				}
				ctxutil.Sleep(ctx, retryInterval)
				continue
			}
			r.committed(batch)
		}
	}
}

// last commits what is there when the process ends.
func (r *Refresher) last(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for batch := r.batch(); len(batch) > 0; batch = r.batch() {
		if _, _, err := builds.Propose(ctx, r.Raft, &buildsv1.RecordRefreshes{Results: batch}); err != nil {
			return
		}
		r.committed(batch)
	}
}

func (r *Refresher) batch() []*buildsv1.RecordRefreshes_Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*buildsv1.RecordRefreshes_Result(nil), r.results[:min(len(r.results), refreshBatch)]...)
}

// committed forgets what the state knows now, refused or not.
func (r *Refresher) committed(batch []*buildsv1.RecordRefreshes_Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.results = r.results[len(batch):]
	for _, res := range batch {
		if r.running[res.Ref] == res.Turn {
			delete(r.running, res.Ref)
		}
	}
}

// shorten makes a text fit for the state: valid UTF-8, one line, bounded.
func shorten(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	return strings.ToValidUTF8(s[:min(len(s), maxRefreshError)], "") // it may have been cut within a character
}
