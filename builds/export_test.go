package builds

// SetRequestLimit replaces the limit of the number of request ids, for tests.
func (s *Store) SetRequestLimit(n int) { s.state.requestLimit = n }
