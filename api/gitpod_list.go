package api

import (
	"context"
	"slices"
	"sync"

	"github.com/image-builder-ha/image-builder/builds"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// maxListBytes bounds the answer of ListBuilds: some callers receive no more
// than gRPC's default of 4 MiB.
const maxListBytes = 4<<20 - 64<<10

// ListBuilds lists the active builds, newest first, as many as fit into 4 MiB.
// The answer is made for the wire: it carries the entries as they are encoded,
// and none in Builds.
func (g Gitpod) ListBuilds(context.Context, *builder.ListBuildsRequest) (*builder.ListBuildsResponse, error) {
	raw, left, err := g.listed.answer(g.store.View(), func(r *buildsv1.Record) *builder.BuildInfo { return g.info(r.Build, false) })
	if err != nil {
		return nil, apiError(err)
	}
	if left > 0 && g.leftOff != nil {
		g.leftOff(left)
	}
	res := &builder.ListBuildsResponse{}
	// Unknown fields are sent as they are. They are known to whoever receives
	// them: what is left is to copy bytes, where 10,000 messages would be made
	// and encoded for each call.
	res.ProtoReflect().SetUnknown(raw)
	return res, nil
}

// active answers the builds that have not ended, newest first.
func active(s *builds.State) []*buildsv1.Record {
	c := s.Counts()
	queued, live := make([]*buildsv1.Record, 0, c.Queued), make([]*buildsv1.Record, 0, c.Live)
	s.Queued(func(r *buildsv1.Record) bool { queued = append(queued, r); return true })
	s.Live(func(r *buildsv1.Record) bool { live = append(live, r); return true })
	out := make([]*buildsv1.Record, 0, len(queued)+len(live))
	for q, l := len(queued), len(live); q+l > 0; { // ids are ordered by time
		if l == 0 || q > 0 && queued[q-1].Build.Id > live[l-1].Build.Id {
			q--
			out = append(out, queued[q])
		} else {
			l--
			out = append(out, live[l])
		}
	}
	return out
}

// listed keeps the last answer of ListBuilds, and how active builds are encoded
// in it. What is told of them does not change until they end.
type listed struct {
	mu      sync.Mutex
	of      *builds.ActiveSet
	raw     []byte
	left    int
	entries map[string]entry // by build id
}

// answer is encode for the active builds of a state. The bytes are shared: they
// must not be changed.
func (l *listed) answer(s *builds.State, info func(*buildsv1.Record) *builder.BuildInfo) (raw []byte, left int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of != s.ActiveSet() {
		if raw, left, err = l.encode(active(s), info); err != nil {
			return nil, 0, err
		}
		l.of, l.raw, l.left = s.ActiveSet(), slices.Clip(raw), left
	}
	return l.raw, l.left, nil
}

// entry is one build, and what it was encoded from.
type entry struct {
	ref, baseRef string
	created      int64
	raw          []byte
}

// encode answers the field `builds` of ListBuildsResponse with as many of the
// records as fit, in their order, and how many were left off. mu is held.
func (l *listed) encode(records []*buildsv1.Record, info func(*buildsv1.Record) *builder.BuildInfo) (raw []byte, left int, err error) {
	former := l.entries
	anew := former == nil || len(former) > 2*len(records)+64 // most have ended
	if anew {
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
		} else if anew {
			l.entries[b.Id] = e
		}
		if len(raw)+len(e.raw) > maxListBytes {
			return raw, len(records) - i, nil
		}
		if i == 0 { // entries are about as long as each other
			raw = make([]byte, 0, min(maxListBytes, len(records)*(len(e.raw)+8)))
		}
		raw = append(raw, e.raw...)
	}
	return raw, 0, nil
}
