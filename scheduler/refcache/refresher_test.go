package refcache

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// Test_Refresher_EachTurnOnce gives a node turns while the cache changes all the time. The node
// then looks for new turns while others end. It must query the registry once for each turn.
func Test_Refresher_EachTurnOnce(t *testing.T) {
	const refs, rounds = 200, 120
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 8)
		log := &schedulertest.Raft{W: w}
		propose := func(payload proto.Message) builds.Result {
			res, _, err := builds.Propose(t.Context(), log, payload)
			if err != nil {
				t.Fatal(err)
			}
			return res
		}
		propose(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		seed := &buildsv1.SeedCache{IntervalNanos: int64(time.Hour)}
		for i := range refs {
			seed.Refs = append(seed.Refs, fmt.Sprintf("r.example.com/a:%d", i))
		}
		propose(seed)

		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		var queries atomic.Int64
		r := &Refresher{Node: "n0", Store: w.Store, Raft: log, Log: slog.New(slog.DiscardHandler), Resolve: func(context.Context, string) (Refreshed, error) {
			queries.Add(1)
			return Refreshed{Digest: "sha256:1"}, nil
		}}
		wg.Go(func() { r.Run(ctx) })

		given := int64(0)
		for range rounds {
			var busy atomic.Bool
			busy.Store(true)
			var noise sync.WaitGroup
			noise.Go(func() { // changes that do not concern turns
				for busy.Load() {
					for range 50 {
						propose(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: "r.example.com/a:0"}})
					}
					time.Sleep(5 * time.Millisecond)
				}
			})
			turns := &buildsv1.AssignRefreshes{}
			w.Store.Read(func(st *builds.State) {
				for _, c := range st.CachedRefs() {
					turns.Assignments = append(turns.Assignments, &buildsv1.AssignRefreshes_Assignment{Ref: c.Ref, Owner: "n0", Turn: c.Turn, DueUnixNano: builds.DueAt(c)})
				}
			})
			given += int64(propose(turns).Refs)
			for open := true; open; {
				changed := w.Store.CachedChanged()
				open = false
				w.Store.Read(func(st *builds.State) {
					for _, c := range st.CachedRefs() {
						open = open || c.RefreshingBy != ""
					}
				})
				if open {
					<-changed
				}
			}
			busy.Store(false)
			noise.Wait()
		}
		if given < refs*rounds*9/10 || queries.Load() != given {
			t.Errorf("%d turns were given, and %d queries made", given, queries.Load())
		}
	})
}

// Test_Shorten_CanBeCommitted: one text that is not valid UTF-8 would prevent the commit of all
// results of a node.
func Test_Shorten_CanBeCommitted(t *testing.T) {
	for _, s := range []string{strings.Repeat("€", maxErrorBytes), "a" + strings.Repeat("€", maxErrorBytes), "\xff", "ok"} {
		if got := shorten(s); !utf8.ValidString(got) || len(got) > maxErrorBytes || got == "" {
			t.Errorf("%d bytes of %.4q become %d that end with %q", len(s), s, len(got), got[max(0, len(got)-4):])
		}
	}
}
