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
	// retryInterval is the time between retries of a proposal.
	retryInterval = 100 * time.Millisecond
	// resultDelay is how long results are collected before they are committed together.
	resultDelay = 50 * time.Millisecond
	// lastCommitTimeout limits the commits of a process that ends.
	lastCommitTimeout = time.Second
	// maxErrorBytes limits the text of a failure in the state.
	maxErrorBytes = 512
)

// Refreshed is the result of resolving a reference.
type Refreshed struct {
	Digest    string
	SizeBytes int64
	// Anonymous means that no credential was used.
	Anonymous bool
}

// Refresher resolves the cached references that the leader gives to this node.
type Refresher struct {
	Node  string
	Store *builds.Store
	Raft  builds.Raft
	Log   *slog.Logger
	// Resolve queries the registry with the credentials of the install. It has a time limit of its
	// own. Its errors contain no secrets.
	Resolve func(ctx context.Context, ref string) (Refreshed, error)
	// Observe is called after each query. May be nil.
	Observe func(err error)

	mu      sync.Mutex
	running map[string]uint64 // turn of this node by reference
	results []*buildsv1.RecordRefreshes_Result
	added   chan struct{} // capacity 1: results has grown
}

// Run resolves references until ctx ends. Then it commits the last results, for at most a second,
// and waits for the queries that run. If results are lost, the leader gives their references to
// other nodes once the state shows that this process has ended.
func (r *Refresher) Run(ctx context.Context) {
	r.running, r.added = map[string]uint64{}, make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.commit(ctx) })
	for ctx.Err() == nil {
		changed := r.Store.CachedChanged()
		for _, c := range r.newTurns() {
			wg.Go(func() { r.resolve(ctx, c) })
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// newTurns returns the references whose turns of this node have not begun, and marks them as
// running.
func (r *Refresher) newTurns() (begin []*imagebuilderv1.CachedRef) {
	// Lock before reading the state: committed deletes a turn from running after the state shows
	// its end, so that a turn that the state still shows is still in running.
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

// resolve queries the registry for one reference and queues the result.
func (r *Refresher) resolve(ctx context.Context, c *imagebuilderv1.CachedRef) {
	got, err := r.Resolve(ctx, c.Ref)
	if ctx.Err() != nil {
		return // the process ends, which is no failure of the reference
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
	if r.Observe != nil {
		r.Observe(err)
	}
	r.mu.Lock()
	r.results = append(r.results, res)
	r.mu.Unlock()
	select {
	case r.added <- struct{}{}:
	default:
	}
}

// commit commits results in batches until ctx ends. It keeps them while there is no leader.
func (r *Refresher) commit(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			r.commitLast(context.WithoutCancel(ctx))
			return
		case <-r.added:
		}
		ctxutil.Sleep(ctx, resultDelay)
		for ctx.Err() == nil {
			batch := r.batch()
			if len(batch) == 0 {
				break
			}
			if _, _, err := builds.Propose(ctx, r.Raft, &buildsv1.RecordRefreshes{Results: batch}); err != nil {
				if ctx.Err() == nil {
					r.Log.Warn("cannot commit the digests of cached references, will try again", "results", len(batch), "err", err)
				}
				ctxutil.Sleep(ctx, retryInterval)
				continue
			}
			r.committed(batch)
		}
	}
}

// commitLast commits the results that are left when the process ends. It does not retry.
func (r *Refresher) commitLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastCommitTimeout)
	defer cancel()
	for batch := r.batch(); len(batch) > 0; batch = r.batch() {
		if _, _, err := builds.Propose(ctx, r.Raft, &buildsv1.RecordRefreshes{Results: batch}); err != nil {
			return
		}
		r.committed(batch)
	}
}

// batch returns the oldest results, at most batchSize.
func (r *Refresher) batch() []*buildsv1.RecordRefreshes_Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*buildsv1.RecordRefreshes_Result(nil), r.results[:min(len(r.results), batchSize)]...)
}

// committed removes results that the state has accepted or refused.
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

// shorten makes a text fit for the state: valid UTF-8, one line, at most maxErrorBytes.
func shorten(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	return strings.ToValidUTF8(s[:min(len(s), maxErrorBytes)], "") // the cut may divide a character
}
