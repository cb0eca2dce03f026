//go:build faults

package builds

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/faults"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// injectDivergence makes the change that is switched on by the fault Diverge.
func (s *State) injectDivergence() {
	if n := faults.Diverge(); n > 0 {
		s.diverge(n)
	}
}

// Diverge changes one field of one record, so that this state differs from that of the other nodes.
// The number modulo 6 selects the table and the field, the rest of it the record.
func (s *Store) Diverge(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.diverge(n)
}

func (s *State) diverge(n int) {
	i := n / 6
	switch n % 6 {
	case 1:
		i %= max(1, s.builds.Len())
		var r *buildsv1.Record
		s.All(func(at *buildsv1.Record) bool {
			r = at
			i--
			return i >= 0
		})
		if r != nil {
			r = edit(r)
			r.CountedAttempts++
			s.put(r)
			return
		}
	case 2:
		if key, r, ok := s.requests.GetAt(i % max(1, s.requests.Len())); ok {
			r = proto.CloneOf(r)
			r.Attached = !r.Attached
			s.requests.Set(key, r)
			return
		}
	case 3:
		if key, r, ok := s.nodes.GetAt(i % max(1, s.nodes.Len())); ok {
			r = proto.CloneOf(r)
			r.Zone += "x"
			s.nodes.Set(key, r)
			return
		}
	case 4:
		if key, r, ok := s.cached.GetAt(i % max(1, s.cached.Len())); ok {
			r = proto.CloneOf(r)
			r.Interval = durationpb.New(r.Interval.AsDuration() + time.Nanosecond)
			s.cached.Set(key, r)
			return
		}
	case 5:
		s.cacheConfig = proto.CloneOf(s.cacheConfig)
		s.cacheConfig.IntervalNanos++
		return
	}
	s.settings = proto.CloneOf(s.settings)
	s.settings.RetryMaxNanos++
}
