package sim

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// unreachedLeader lets the requests of one node to the leader get lost, while that node hears the
// leader. It must refuse calls that need the leader, so that clients continue at another node, and
// accept them again later.
func unreachedLeader(w *world) error {
	lead, others := w.leader()
	deaf := others[0]
	w.hub.Cut(deaf.name, lead.name)
	calls := 0
	call := func() (time.Duration, error) {
		calls++
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		began := time.Now()
		_, err := deaf.alive().api().BuildImage(ctx, buildRequest("a", fmt.Sprint(calls)))
		return time.Since(began), err
	}
	for _, limit := range []time.Duration{5500 * time.Millisecond, 10 * time.Millisecond, 10 * time.Millisecond} {
		took, err := call()
		w.log("call %d on %s took %s: %v", calls, deaf.name, took, err)
		if status.Code(err) != codes.Unavailable || took > limit {
			return fmt.Errorf("call %d on %s, which does not reach the leader, took %s, want at most %s (%w)", calls, deaf.name, took, limit, err)
		}
		if !strings.Contains(err.Error(), "no leader has responded") {
			return fmt.Errorf("call %d on %s: the error does not say why: %w", calls, deaf.name, err)
		}
	}
	w.hub.Heal()
	wait(context.Background(), 5*time.Second)
	if took, err := call(); err != nil {
		return fmt.Errorf("a call on %s, which reaches the leader again, took %s: %w", deaf.name, took, err)
	}
	return nil
}
