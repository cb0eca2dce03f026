package builds

import (
	"fmt"
	"io"

	"github.com/tidwall/btree"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// SetRequestLimit replaces the limit of the number of request ids, for tests.
func (s *Store) SetRequestLimit(n int) { s.state.requestLimit = n }

// ProtobufVersion is the version of the protobuf module in the version of a hash.
const ProtobufVersion = protobufVersion

// SuccessorDeadlineLevel is the feature level at which the deadlines of successors wait.
const SuccessorDeadlineLevel = successorDeadlineLevel

// AllAttemptsLevel is the feature level at which a lost node can lose all its attempts.
const AllAttemptsLevel = allAttemptsLevel

// MaxEndedAttempts is the number of attempts that one command ends because their node is gone.
const MaxEndedAttempts = maxEndedAttempts

// CheckpointCommands is the number of indexes between two checkpoints.
const CheckpointCommands = checkpointCommands

// Hash returns the hash of the state, from the sums that the changes have kept up to date.
func (s *Store) Hash() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.sum()
}

// HashSnapshot returns the hash of the state in a snapshot, computed from all records.
func HashSnapshot(r io.Reader) (uint64, error) {
	s, err := readSnapshot(r)
	if err != nil {
		return 0, err
	}
	s.Track()
	return s.sum(), nil
}

// Edit returns a copy of a record, as commands change it.
func Edit(r *buildsv1.Record) *buildsv1.Record { return edit(r) }

// Track begins to hash a state.
func (s *State) Track() { s.track() }

// Schedule returns the content of the tables that the leader decides by, with the versions of the
// builds in them.
func (s *State) Schedule() map[string]any {
	out := map[string]any{"logBytes": s.logBytes}
	for name, t := range map[string]*btree.Map[string, *buildsv1.Record]{
		"ready": s.ready, "heads": s.heads, "delayed": s.delayed, "byOwner": s.byOwner, "adoptable": s.adoptable, "expiring": s.expiring,
		"stopping": s.stopping, "digested": s.digested, "queued": s.queued, "deadlines": s.deadlines, "live": s.live, "sealing": s.sealing,
	} {
		versions := map[string]uint64{}
		t.Scan(func(key string, r *buildsv1.Record) bool { versions[key] = r.Build.Version; return true })
		out[name] = versions
	}
	for name, t := range map[string]*btree.Map[string, int]{"running": s.running, "waiting": s.waiting, "owned": s.owned, "historyCount": s.historyCount} {
		numbers := map[string]int{}
		t.Scan(func(key string, n int) bool { numbers[key] = n; return true })
		out[name] = numbers
	}
	sets := map[string]int{}
	s.copySets.Scan(func(key string, set copySet) bool { sets[key] = set.n; return true })
	out["copySets"] = sets
	for name, t := range map[string]*btree.Map[string, string]{"activeByRef": s.activeByRef, "successors": s.successors, "active": s.active} {
		ids := map[string]string{}
		t.Scan(func(key, id string) bool { ids[key] = id; return true })
		out[name] = ids
	}
	for name, t := range map[string]*tree[*entry]{
		"created": s.created, "byRef": s.byRef, "byRefAndID": s.byRefAndID, "byRequester": s.byRequester,
		"history": s.history, "historyByRequester": s.historyByRequester, "logged": s.logged,
	} {
		builds := []string{}
		t.Scan(func(e *entry) bool {
			if e != s.builds.entry(e.id()) {
				builds = append(builds, "a former version of:")
			}
			builds = append(builds, e.id())
			return true
		})
		out[name] = builds
	}
	published := []string{}
	s.published.Scan(func(p publication) bool {
		if p.build != s.builds.entry(p.build.id()) {
			published = append(published, "a former version of:")
		}
		published = append(published, fmt.Sprint(p.ref, " ", p.build.id()))
		return true
	})
	out["published"] = published
	return out
}
