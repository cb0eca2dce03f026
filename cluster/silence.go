package cluster

import "time"

// silence decides whether a leader sends nothing, so that another node can lead. It is the state of
// one term.
type silence struct{ since time.Time } // zero if the leader sends

// next returns whether the leader is silent from now on. It becomes silent when its disk is stuck.
// After the disk writes again, the leader stays silent until the others have had time for an
// election. If they elect nobody, for instance because there is no other voter, the leader sends
// again.
func (s *silence) next(now time.Time, stuck bool, election time.Duration) bool {
	switch {
	case stuck && s.since.IsZero():
		s.since = now
	case !stuck && !s.since.IsZero() && now.Sub(s.since) >= election:
		s.since = time.Time{}
	}
	return !s.since.IsZero()
}
