package api

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Listed checks the cached entries between responses: builds are created and end, a restore
// changes a build under the same id, and the entries of ended builds are dropped.
func Test_Listed(t *testing.T) {
	made := 0
	info := func(r *buildsv1.Record) *builder.BuildInfo {
		made++
		return &builder.BuildInfo{BuildId: r.Build.Id, Ref: r.Build.Ref, StartedAt: r.Build.CreatedAt.Seconds}
	}
	record := func(id int, ref string) *buildsv1.Record {
		return &buildsv1.Record{Build: &imagebuilderv1.Build{Id: fmt.Sprint("build-", id), Ref: ref, CreatedAt: &timestamppb.Timestamp{Seconds: int64(id)}}}
	}
	var l activeList
	list := func(records ...*buildsv1.Record) *builder.ListBuildsResponse {
		t.Helper()
		raw, left, err := l.encode(records, info)
		if err != nil || left != 0 {
			t.Fatal(left, err)
		}
		var res builder.ListBuildsResponse
		if err := proto.Unmarshal(raw, &res); err != nil {
			t.Fatal(err)
		}
		var want builder.ListBuildsResponse
		for _, r := range records {
			want.Builds = append(want.Builds, info(r))
			made--
		}
		if !proto.Equal(&res, &want) {
			t.Errorf("listed %v, want %v", &res, &want)
		}
		return &res
	}
	var many []*buildsv1.Record
	for i := range 500 {
		many = append(many, record(i, "a"))
	}
	list()
	list(many...)
	list(append(many[250:], record(500, "b"))...)
	if made != 501 {
		t.Errorf("%d entries were encoded, want each once: 501", made)
	}
	list(record(500, "another"))
	list(many[:10]...)
	if n := len(l.entries); n > 100 {
		t.Errorf("%d entries are kept for 10 builds", n)
	}
	list(many[5:15]...)
}

// Test_Listed_Bound fills a response up to its limit and not beyond.
func Test_Listed_Bound(t *testing.T) {
	var records []*buildsv1.Record
	for i := range 50000 {
		records = append(records, &buildsv1.Record{Build: &imagebuilderv1.Build{Id: fmt.Sprintf("%036d", i), Ref: "registry.example/workspace-images:0123456789"}})
	}
	var l activeList
	for range 2 {
		raw, left, err := l.encode(records, func(r *buildsv1.Record) *builder.BuildInfo {
			return &builder.BuildInfo{BuildId: r.Build.Id, Ref: r.Build.Ref}
		})
		if err != nil || len(raw) > maxListBytes || len(raw) < maxListBytes-200 || left == 0 {
			t.Fatalf("%d bytes of at most %d, %d left out, %v", len(raw), maxListBytes, left, err)
		}
		var res builder.ListBuildsResponse
		if err := proto.Unmarshal(raw, &res); err != nil || len(res.Builds) != len(records)-left || res.Builds[0].BuildId != records[0].Build.Id {
			t.Fatalf("%d builds, %d left out of %d, %v", len(res.Builds), left, len(records), err)
		}
	}
}

// Benchmark_Listed measures one call of ListBuilds.
func Benchmark_Listed(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint("builds=", n), func(b *testing.B) {
			m := buildstest.NewMachine(b)
			for i := range n {
				m.Create(fmt.Sprintf("registry.example/workspace-images:%064d", i), func(c *buildsv1.CreateBuild) {
					c.BaseRef = fmt.Sprintf("registry.example/base-images:%064d", i)
				})
			}
			g := Gitpod{Service: &Service{store: m.Store}}
			for b.Loop() {
				res, err := g.ListBuilds(b.Context(), nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := proto.Marshal(res); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Test_Listed_Answer compares the cached response with one that is encoded from the state, while
// builds are created, progress, end and are removed, and while former states are restored. The
// cached response is replaced exactly when it differs.
func Test_Listed_Answer(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	info := func(r *buildsv1.Record) *builder.BuildInfo {
		return &builder.BuildInfo{BuildId: r.Build.Id, Ref: r.Build.Ref, BaseRef: r.Build.BaseRef, StartedAt: r.Build.CreatedAt.Seconds}
	}
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.PutSettings{Settings: &buildsv1.Settings{HistoryTotal: 5, Attempts: 2}})
	var l, fresh activeList
	var last, saved []byte
	made, again := 0, 0
	for range 5000 {
		m.Now = m.Now.Add(time.Second)
		live := activeBuilds(m.Store.View())
		switch n := rng.IntN(100); {
		case n == 0:
			saved = buildstest.Dump(t, m.Store)
		case n == 1 && saved != nil:
			if err := m.Store.Restore(bytes.NewReader(saved)); err != nil {
				t.Fatal(err)
			}
		case len(live) < 3 || n < 20 && len(live) < 40:
			m.Create(fmt.Sprint("r:", m.IDs), func(c *buildsv1.CreateBuild) { c.BaseRef = fmt.Sprint("base", rng.IntN(3)) })
		default:
			b := live[rng.IntN(len(live))].Build
			a := builds.LastAttempt(b)
			switch {
			case b.Phase == builds.Queued && rng.IntN(10) > 0:
				m.Assign(b.Id)
			case b.Phase == builds.Queued:
				m.Apply(&buildsv1.StopBuild{BuildId: b.Id, Requester: "alice", Reason: buildsv1.StopReason_STOP_REASON_REQUESTER})
			case b.Phase < builds.Pushing:
				m.Report(b.Id, a.Epoch, b.Phase+1, "sha256:d")
			default:
				m.Finish(b.Id, a.Epoch, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:d"})
			}
		}
		before := l.set
		got, _, err := l.encoded(m.Store.View(), info)
		if err != nil {
			t.Fatal(err)
		}
		want, _, err := fresh.encode(activeBuilds(m.Store.View()), info)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%v; the response is %q, want %q", err, got, want)
		}
		if l.set == before {
			again++
		} else {
			made++
		}
		last = got
	}
	if len(last) == 0 || again < 1000 || made < 1000 {
		t.Errorf("%d bytes, %d times the same response, %d times another one", len(last), again, made)
	}
}

// Test_ActiveBuilds_NewestFirst checks the order of queued and running builds whose ids are not in
// the order of their creation, because the clocks of their leaders differed.
func Test_ActiveBuilds_NewestFirst(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	var want []string
	for i, id := range []string{"5", "9", "3", "7", "1"} {
		want = append([]string{id}, want...)
		m.Create(fmt.Sprint("r:", i), func(c *buildsv1.CreateBuild) { c.Id = id })
	}
	m.Assign("7")
	m.Assign("9")
	var got []string
	for _, r := range activeBuilds(m.Store.View()) {
		got = append(got, r.Build.Id)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the active builds are %v, want %v", got, want)
	}
}
