package fsm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// Test_FSM_FailureWakesWaiters checks that a caller that waits for an index learns at once that the
// state machine has stopped.
func Test_FSM_FailureWakesWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		f := New(Options{Machine: &indexes{}, Origin: "a"})
		waited := make(chan error, 1)
		go func() { waited <- f.Wait(ctx, 7) }()
		synctest.Wait()
		err, _ := f.Apply(&raft.Log{Index: 1, Type: raft.LogCommand, Data: []byte("no command")}).(error)
		if err == nil {
			t.Fatal("a command that cannot be decoded is applied")
		}
		if got := <-waited; !errors.Is(got, err) || ctx.Err() != nil {
			t.Errorf("the waiter got %v, want %v", got, err)
		}
		if got := f.Wait(ctx, 8); !errors.Is(got, err) {
			t.Errorf("a later waiter got %v, want %v", got, err)
		}
		f.Apply(&raft.Log{Index: 2, Type: raft.LogCommand}) // must not stop it twice
		if got := <-f.fatal; !errors.Is(got, err) {
			t.Errorf("the node stops with %v, want %v", got, err)
		}
	})
}
