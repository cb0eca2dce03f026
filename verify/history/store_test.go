package history_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	. "github.com/image-builder-ha/image-builder/verify/history"
)

// Test_Check_AcceptsTheStore drives the real state machine and checks that there is no violation.
func Test_Check_AcceptsTheStore(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h := run(newWorld(t, seed), 2+int(seed%4), 1+int(seed%4), 30)
			if err := Check(h); err != nil {
				path := filepath.Join(t.ArtifactDir(), "history.jsonl")
				t.Fatalf("%v\n(history saved: %s, %v)", err, path, Save(path, h))
			}
		})
	}
}

// Test_Judge_IsFast checks that 20,000 operations on 200 refs are judged within 10 seconds.
func Test_Judge_IsFast(t *testing.T) {
	h := run(newWorld(t, 1), 50, 200, 400)
	start := time.Now()
	v := Judge(h, Options{})
	if err := v.Err(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("%d calls on %d refs took %s", v.Calls, v.Refs, took)
	if v.Calls < 20_000 || v.Refs != 200 {
		t.Errorf("judged %d calls on %d refs, want 20000 on 200", v.Calls, v.Refs)
	}
	if took > 10*time.Second {
		t.Errorf("took %s, want less than 10s", took)
	}
}
