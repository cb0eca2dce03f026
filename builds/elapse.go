package builds

import buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"

// elapse updates the tables of builds that may start, after the time of the state has risen from
// from to to. It adds the builds whose pause has ended meanwhile, and removes those whose deadline
// has passed.
func (s *State) elapse(from, to int64) {
	if from == to {
		return
	}
	var due, ended []*buildsv1.Record
	until := timeKey(to + 1)
	s.delayed.Scan(func(key string, r *buildsv1.Record) bool {
		if key >= until {
			return false
		}
		due = append(due, r)
		return true
	})
	s.deadlines.Ascend(timeKey(from+1), func(key string, r *buildsv1.Record) bool {
		if key >= until {
			return false
		}
		ended = append(ended, r)
		return true
	})
	for _, r := range due {
		b := r.Build
		s.delayed.Delete(timeKey(b.NotBefore.AsTime().UnixNano()) + b.Id)
		if p := s.placesOf(r); p.ready != "" {
			s.ready.Set(p.ready, r)
			s.changed[b.Requester] = struct{}{}
		}
	}
	for _, r := range ended {
		b := r.Build
		if _, ok := s.ready.Delete(laneKey(KindOf(b.Source), b.Requester) + createdKey(r)); ok {
			s.changed[b.Requester] = struct{}{}
		}
	}
}

// settle updates the heads of the lanes that have changed. The state calls it at the end of each
// command.
func (s *State) settle() {
	for requester := range s.changed {
		n := s.Running(requester)
		for k := range Kinds {
			lane := laneKey(k, requester)
			head := s.FirstReady(k, requester)
			key := ""
			if head != nil {
				key = headKey(k, n, head)
			}
			move(s.heads, s.laneHeads[lane], key, head)
			if key == "" {
				delete(s.laneHeads, lane)
			} else {
				s.laneHeads[lane] = key
			}
		}
	}
	clear(s.changed)
}
