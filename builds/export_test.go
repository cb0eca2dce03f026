package builds

import "io"

// SetRequestLimit replaces the limit of the number of request ids, for tests.
func (s *Store) SetRequestLimit(n int) { s.state.requestLimit = n }

// ProtobufVersion is the version of the protobuf module in the version of a hash.
const ProtobufVersion = protobufVersion

// SuccessorDeadlineLevel is the feature level at which the deadlines of successors wait.
const SuccessorDeadlineLevel = successorDeadlineLevel

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

// Track begins to hash a state.
func (s *State) Track() { s.track() }
