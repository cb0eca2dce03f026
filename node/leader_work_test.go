package node

import (
	"context"
	"testing"
	"testing/synctest"
)

// Test_RaiseLevel_EndsWithTheWorkOfTheNode checks that the work of a leader ends when the node shuts
// down, and not only with the term.
func Test_RaiseLevel_EndsWithTheWorkOfTheNode(t *testing.T) {
	n := lone(t, t.TempDir())
	n.cfg.Cluster.Level = 1 // the level of an empty state, so that there is nothing to raise
	synctest.Test(t, func(t *testing.T) {
		var stop context.CancelFunc
		n.work, stop = context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.raiseLevel(t.Context(), nil) }()
		synctest.Wait()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
