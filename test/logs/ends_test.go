//go:build faults

package logs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/disks"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Logs_EndsOnAFullDisk ends builds while the disk of one node fills, and while the acknowledgements
// of the copies on the other nodes are late, so that the copies are behind the owners. Every reader of
// a log gets the bytes that were shown before, through each node. With SOAK 100 logs end, in rounds of
// ten.
func Test_Logs_EndsOnAFullDisk(t *testing.T) {
	const script = `name=${PWD##*/}; id=${name#ib-}; id=${id%-*}; i=0
while [ -d "../$name" ] && [ ! -e "../go-$id" ]; do i=$((i+1)); seq -f "part $i line %020.0f" 1 20; sleep 0.02; done; seq -f "the end %020.0f" 1 200`
	rounds, each := testkit.InSoak(10, 1), testkit.InSoak(10, 4)
	w := prepareLogCluster(t, 3, script, false, harness.Config{
		"log":    map[string]any{"level": "info"},
		"builds": map[string]any{"uncountedAttempts": 1000},
	})
	on := map[*harness.Node]*disks.Disk{}
	for _, n := range w.Nodes {
		on[n] = disks.NewAt(t, 128<<20, filepath.Join(n.Dir, "data", "logs"))
	}
	w.start()
	harness.AwaitMembers(t, w.Cluster, "the feature level is raised", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 5 })
	ctx := testkit.Context(t, 15*time.Minute)
	ends, full := 0, 0
	for round := range rounds {
		small := w.Nodes[round%len(w.Nodes)]
		all := map[string][]*reader{}
		var waits []func()
		for _, id := range w.request(ctx, each) {
			readers, wait := w.startReaders(ctx, id, 2)
			all[id], waits = readers, append(waits, wait)
		}
		for _, readers := range all {
			w.awaitBytes(readers, 4<<10)
		}
		for _, n := range w.Others(small) { // the fault: acknowledgements come late
			n.Hurt(map[string]any{"log_delay": 200*time.Millisecond + rand.N(300*time.Millisecond)})
		}
		if err := on[small].Fill(64 * disks.Block); err != nil {
			t.Fatal(err)
		}
		filled := make(chan struct{})
		go func() {
			defer close(filled)
			<-time.After(rand.N(400 * time.Millisecond)) // the fault: the disk fills at the end of the logs
			fillUp(t, on[small])
		}()
		for id := range all {
			<-time.After(rand.N(400 * time.Millisecond / time.Duration(each)))
			if err := os.WriteFile(filepath.Join(w.dir, "go-"+id), nil, 0o600); err != nil {
				t.Error(err)
			}
		}
		<-filled
		for id := range all { // while the disk is full
			b := w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return b.EndedAt != nil })
			for _, a := range b.Attempts {
				if ends++; a.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
					full++
				}
				if a.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED && !strings.Contains(a.Message, "cannot write logs") {
					t.Logf("build %s: attempt %d on %s ended: %s", id, a.Number, a.Owner, a.Message)
				}
			}
		}
		for _, wait := range waits {
			wait()
		}
		for id, readers := range all {
			w.checkSame(ctx, id, readers)
		}
		on[small].Release()
		for _, n := range w.Nodes {
			n.Hurt(map[string]any{})
		}
		for id, readers := range all {
			w.checkSame(ctx, id, readers)
		}
		harness.AwaitMembers(t, w.Cluster, fmt.Sprintf("round %d: no node has a problem", round), func(r *imagebuilderv1.MembersResponse) bool {
			for _, m := range r.Members {
				if m.Trouble != "" {
					return false
				}
			}
			return true
		})
	}
	t.Logf("%d logs ended, %d of them with the full disk", ends, full)
	if testkit.Soak() && full == 0 {
		t.Error("no log ended with the full disk: this shows nothing")
	}
}
