package api

import (
	"cmp"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// maxListBytes is the maximum size of the entries of ListBuilds, in bytes. Some clients receive no
// more than 4 MiB, the default of gRPC.
const maxListBytes = 4<<20 - 64<<10

// activeBuilds returns the builds that have not ended, newest first.
func activeBuilds(s *builds.State) []*buildsv1.Record {
	c := s.Counts()
	queued, live := make([]*buildsv1.Record, 0, c.Queued), make([]*buildsv1.Record, 0, c.Live)
	s.Queued(func(r *buildsv1.Record) bool { queued = append(queued, r); return true })
	s.Live(func(r *buildsv1.Record) bool { live = append(live, r); return true })
	out := make([]*buildsv1.Record, 0, len(queued)+len(live))
	// By id, they are nearly in this order.
	slices.SortStableFunc(live, func(a, b *buildsv1.Record) int { return cmp.Compare(a.CreatedIndex, b.CreatedIndex) })
	for q, l := len(queued), len(live); q+l > 0; {
		if l == 0 || q > 0 && queued[q-1].CreatedIndex > live[l-1].CreatedIndex {
			q--
			out = append(out, queued[q])
		} else {
			l--
			out = append(out, live[l])
		}
	}
	return out
}

// activeList caches the last response of Gitpod's ListBuilds and the encoded entries of its builds.
// The fields of an entry do not change while the build is active.
type activeList struct {
	mu      sync.Mutex
	set     *builds.ActiveSet // of the cached response
	raw     []byte
	left    int
	entries map[string]entry // by build id
}

// encoded returns the encoded active builds of a state, and how many were left out. The caller must
// not change the bytes.
func (l *activeList) encoded(s *builds.State, info func(*buildsv1.Record) *builder.BuildInfo) (raw []byte, left int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set != s.ActiveSet() {
		if raw, left, err = l.encode(activeBuilds(s), info); err != nil {
			return nil, 0, err
		}
		l.set, l.raw, l.left = s.ActiveSet(), slices.Clip(raw), left
	}
	return l.raw, l.left, nil
}

// entry is an encoded build, with the fields from which it was encoded.
type entry struct {
	ref, baseRef string
	created      int64
	raw          []byte
}

// encode encodes records as the field builds of ListBuildsResponse, as many as fit, in their order.
// It returns how many were left out. mu is held.
func (l *activeList) encode(records []*buildsv1.Record, info func(*buildsv1.Record) *builder.BuildInfo) (raw []byte, left int, err error) {
	former := l.entries
	rebuild := former == nil || len(former) > 2*len(records)+64 // most builds of former have ended
	if rebuild {
		l.entries = make(map[string]entry, len(records))
	}
	for i, r := range records {
		b := r.Build
		e, ok := former[b.Id]
		if !ok || e.ref != b.Ref || e.baseRef != b.BaseRef || e.created != b.GetCreatedAt().GetSeconds() {
			e = entry{ref: b.Ref, baseRef: b.BaseRef, created: b.GetCreatedAt().GetSeconds()}
			content, err := proto.Marshal(info(r))
			if err != nil {
				return nil, 0, err
			}
			e.raw = protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), content)
			l.entries[b.Id] = e
		} else if rebuild {
			l.entries[b.Id] = e
		}
		if len(raw)+len(e.raw) > maxListBytes {
			return raw, len(records) - i, nil
		}
		if i == 0 { // all entries have about the same size
			raw = make([]byte, 0, min(maxListBytes, len(records)*(len(e.raw)+8)))
		}
		raw = append(raw, e.raw...)
	}
	return raw, 0, nil
}
