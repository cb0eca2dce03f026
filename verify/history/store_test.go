package history_test

import (
	"fmt"
	"path/filepath"
	"testing"

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

// Test_Judge_ManyRefs judges a history with many calls of 50 clients on 100 refs.
func Test_Judge_ManyRefs(t *testing.T) {
	v := Judge(run(newWorld(t, 1), 50, 100, 60), Options{})
	if err := v.Err(); err != nil {
		t.Fatal(err)
	}
	if v.Calls < 2_000 || v.Refs != 100 {
		t.Errorf("judged %d calls on %d refs, want 2000 on 100", v.Calls, v.Refs)
	}
}

// Benchmark_Judge judges 20,000 calls of 50 clients on 200 refs.
func Benchmark_Judge(b *testing.B) {
	h := run(newWorld(b, 1), 50, 200, 400)
	for b.Loop() {
		if err := Judge(h, Options{}).Err(); err != nil {
			b.Fatal(err)
		}
	}
}
