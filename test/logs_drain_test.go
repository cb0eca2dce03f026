//go:build faults

package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Logs_Drained drains a node that owns live logs and holds copies of
// others: all of them move off it while they are written and read. Then the
// owner of one, which had its copy there, is killed.
func Test_Logs_Drained(t *testing.T) {
	more := filepath.Join(t.TempDir(), "more") // the end of the test removes it, too
	if err := os.WriteFile(more, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := newLogWorld(t, 4, fmt.Sprintf(`i=0; while [ -e %s ]; do i=$((i+1)); seq -f "part $i line %%050.0f" 1 300; sleep 0.2; done`, more), true, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	refs := pushMany(t, w.reg, 8)
	all := map[string][]*reader{}
	var waits []func()
	for _, ref := range refs {
		w.base = ref
		b := w.build(ctx)
		readers, wait := w.startReaders(ctx, b.Id, 4)
		all[b.Id], waits = readers, append(waits, wait)
	}
	for _, readers := range all {
		w.awaitBytes(readers, 64<<10)
	}
	drained, watched := w.drainable(ctx, all)
	if out, text, code := cli(t, socketOf(w.node(drained)), "cluster", "drain", drained); code != 0 {
		t.Fatal(out, text)
	}
	for id := range all {
		w.await(ctx, id, func(b *imagebuilderv1.Build) bool {
			log := b.Attempts[0].Log
			return b.Attempts[0].Owner != drained && len(log.Copies) == 2 && !holdsLog(log, drained)
		})
	}
	for id, readers := range all { // and they go on
		w.awaitBytes(readers, readers[0].total.Load()+64<<10)
		w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return !holdsLog(b.Attempts[0].Log, drained) })
	}
	owner := w.node(w.await(ctx, watched, func(*imagebuilderv1.Build) bool { return true }).Attempts[0].Owner)
	owner.Kill()
	w.awaitOn(ctx, owner, watched)
	w.awaitBytes(all[watched], all[watched][0].total.Load()+64<<10)
	owner.Run()
	if err := os.Remove(more); err != nil {
		t.Fatal(err)
	}
	for _, wait := range waits {
		wait()
	}
	for id, readers := range all {
		b := w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return b.EndedAt != nil })
		if len(b.Attempts) != 1 || holdsLog(b.Attempts[0].Log, drained) {
			t.Errorf("build %s: %d attempts, the log of the first is on %v", id, len(b.Attempts), b.Attempts[0].Log.Copies)
		}
		w.checkSame(ctx, id, readers)
	}
	if n := w.starts(); n != len(refs) {
		t.Errorf("%d workloads were started for %d builds", n, len(refs))
	}
}

// drainable answers a node that owns some of the live logs and holds the copy
// of another, and that one's build.
func (w *logWorld) drainable(ctx context.Context, builds map[string][]*reader) (node, build string) {
	w.t.Helper()
	owns, holds := map[string]bool{}, map[string]string{}
	for id := range builds {
		a := w.await(ctx, id, func(b *imagebuilderv1.Build) bool { return len(b.Attempts[0].Log.Copies) == 2 }).Attempts[0]
		owns[a.Owner] = true
		for _, c := range a.Log.Copies {
			if c.Node != a.Owner {
				holds[c.Node] = id
			}
		}
	}
	for name, id := range holds {
		if owns[name] {
			return name, id
		}
	}
	w.t.Fatalf("no node owns a log and holds the copy of another: owners %v, holders %v", owns, holds)
	return "", ""
}

func holdsLog(log *imagebuilderv1.AttemptLog, node string) bool {
	for _, c := range log.GetCopies() {
		if c.Node == node {
			return true
		}
	}
	return false
}
