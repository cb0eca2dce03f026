package history_test

import (
	"errors"
	"testing"
	"time"

	. "github.com/image-builder-ha/image-builder/verify/history"
)

var errLost = errors.New("connection lost")

// script writes a history by hand.
type script struct{ *Recorder }

func write(f func(script)) History {
	s := script{NewRecorder(func() time.Time { return time.Time{} })}
	f(s)
	return s.History()
}

// do records an operation whose response comes before the next operation begins.
func (s script) do(op Operation, out Outcome) { s.begin(op).End(out) }

// begin records the beginning of an operation that can overlap with others.
func (s script) begin(op Operation) *Call { return s.Begin("client-"+op.Requester, op) }

func create(who, request string) Operation {
	return Operation{Kind: Create, Ref: "r:1", Requester: who, RequestID: request}
}

func forced(op Operation) Operation {
	op.Force = true
	return op
}

func read(id string) Operation { return Operation{Kind: Read, ID: id} }

func linearizableRead(id string) Operation { return Operation{Kind: Read, ID: id, Linearizable: true} }

func readSince(id string, index uint64) Operation {
	return Operation{Kind: Read, ID: id, MinIndex: index}
}

func stop(id, who string) Operation { return Operation{Kind: Cancel, ID: id, Requester: who} }

func wait(id string) Operation { return Operation{Kind: Observe, ID: id} }

func created(id string) Outcome { return Outcome{Build: BuildState{ID: id, Phase: Queued}} }

func createdAt(id string, index uint64) Outcome {
	return Outcome{Build: BuildState{ID: id, Phase: Queued, Version: index, CreatedIndex: index}, Index: index}
}

func attached(id string) Outcome {
	return Outcome{Build: BuildState{ID: id, Phase: Running}, Attached: true}
}

func is(id string, p Phase) Outcome { return Outcome{Build: BuildState{ID: id, Phase: p}} }

func isAt(id string, p Phase, index uint64) Outcome {
	return Outcome{Build: BuildState{ID: id, Phase: p, Version: index}, Index: index}
}

func stopping(id string, p Phase) Outcome {
	return Outcome{Build: BuildState{ID: id, Phase: p, CancelRequested: true}}
}

func succeeded(id, digest string) Outcome {
	return Outcome{Build: BuildState{ID: id, Phase: Succeeded, Digest: digest}}
}

// rejects checks that the first violation of a history is one of the given invariant.
func rejects(t *testing.T, h History, o Options, invariant Invariant) {
	t.Helper()
	var v Violation
	err := Judge(h, o).Err()
	if !errors.As(err, &v) {
		t.Fatalf("got %v, want a violation of %q", err, invariant)
	}
	if v.Invariant != invariant {
		t.Fatalf("got %v, want a violation of %q", err, invariant)
	}
	if len(v.Calls) == 0 || v.Ref == "" || v.Message == "" {
		t.Fatalf("the violation names no calls or no ref: %v", err)
	}
}
