package sim

const (
	// comparedStates is a state of a simulation in which a leader has compared the replicated
	// states of members.
	comparedStates = "replicated states were compared"
	// differentState and unclearState are the messages in the log of a leader that has found that
	// replicated states differ.
	differentState = "the replicated state of a member differs from that of the majority"
	unclearState   = "the replicated states of members differ, and no majority shows which one is right"
)

// checkStates reports an error if a leader has found that the replicated states of nodes differ.
func (w *world) checkStates() {
	for _, n := range w.nodes {
		if r := n.alive(); r != nil && r.cluster().Divergence().Compared > 0 {
			w.count(comparedStates)
		}
	}
	if n := w.times(differentState) + w.times(unclearState); n > 0 {
		w.t.Errorf("seed %d: leaders have found %d times that replicated states differ", w.seed, n)
	}
}

// times returns how often a state of this world was reached.
func (w *world) times(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reached[what]
}
