package cluster_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/image-builder-ha/image-builder/cluster"
)

// Benchmark_ReadIndex measures read indexes on the leader of three nodes on loopback, by one reader
// and by 32 for each processor, with the calls Confirm and with Raft's VerifyLeader.
func Benchmark_ReadIndex(b *testing.B) {
	var confirm atomic.Bool
	g := newGroup(b)
	for i := range 3 {
		g.start(fmt.Sprintf("n%d", i), func(c *cluster.Config) { c.ConfirmReads = confirm.Load })
	}
	lead := g.leader()
	read := func(b *testing.B) {
		b.Helper()
		if _, err := lead.ReadIndex(b.Context()); err != nil {
			b.Error(err)
		}
	}
	read(b) // waits until the leader has begun its work
	for _, readers := range []int{1, 32} {
		for _, by := range []string{"verify-leader", "confirm"} {
			b.Run(fmt.Sprintf("readers=%d/%s", readers, by), func(b *testing.B) {
				confirm.Store(by == "confirm")
				if readers == 1 {
					for b.Loop() {
						read(b)
					}
					return
				}
				b.SetParallelism(readers)
				b.RunParallel(func(p *testing.PB) {
					for p.Next() {
						read(b)
					}
				})
			})
		}
	}
}
