//go:build !faults

package builds

// injectDivergence does nothing in this binary.
func (*State) injectDivergence() {}
