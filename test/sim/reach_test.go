package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// slower is the millisecond of the limits in this file. The nodes of the simulation have twice the
// default heartbeat timeout, with which the times of the detection grow.
const slower = 2 * time.Millisecond

// unreachedLeader separates one node from the leader, in three ways. The node must refuse calls that
// need the leader in time, so that clients continue at another node, and accept them again later.
func unreachedLeader(w *world) error {
	for _, c := range []struct {
		what  string
		cut   func(node, lead, other string)
		limit time.Duration // of a call that begins with the fault
	}{
		{"requests to the leader are lost", func(node, lead, _ string) { w.hub.Cut(node, lead) }, 1400 * slower},
		{"it reaches only the other follower", func(node, lead, _ string) { w.hub.Part([]string{node}, []string{lead}) }, 900 * slower},
		{"it hears no node", func(node, lead, other string) { w.hub.Cut(lead, node); w.hub.Cut(other, node) }, 1200 * slower},
	} {
		lead, others := w.leader()
		c.cut(others[0].name, lead.name, others[1].name)
		if err := refusesInTime(w, others[0], c.what, c.limit); err != nil {
			return err
		}
		w.hub.Heal()
		wait(context.Background(), 6*time.Second)
		if took, err := timedBuild(others[0], c.what+", healed"); err != nil {
			return fmt.Errorf("a call on %s, which reaches the leader again, took %s: %w", others[0].name, took, err)
		}
	}
	return nil
}

// refusesInTime calls a node that reaches no leader. The first call may take as long as limit, and
// later ones fail at once.
func refusesInTime(w *world, node *machine, what string, limit time.Duration) error {
	for call, limit := range []time.Duration{limit, 10 * time.Millisecond, 10 * time.Millisecond} {
		took, err := timedBuild(node, fmt.Sprint(what, call))
		w.log("%s: call %d on %s took %s: %v", what, call, node.name, took, err)
		if status.Code(err) != codes.Unavailable || took > limit {
			return fmt.Errorf("%s: call %d on %s took %s, want at most %s (%w)", what, call, node.name, took, limit, err)
		}
		if !strings.Contains(err.Error(), "no leader has responded") {
			return fmt.Errorf("%s: call %d on %s: the error does not say why: %w", what, call, node.name, err)
		}
	}
	return nil
}

// timedBuild requests a build on a node.
func timedBuild(node *machine, id string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	began := time.Now()
	_, err := node.alive().api().BuildImage(ctx, buildRequest("a", id))
	return time.Since(began), err
}

// deafLeader lets the leader hear no node. Calls on the leader are refused in time, and calls on the
// others succeed as soon as one of them leads.
func deafLeader(w *world) error {
	lead, others := w.leader()
	for _, o := range others {
		w.hub.Cut(o.name, lead.name)
	}
	results := make(chan error, len(others))
	for _, o := range others {
		go func() {
			took, err := timedBuild(o, "deaf"+o.name)
			if took > 1600*slower || err != nil {
				err = fmt.Errorf("a call on %s took %s, want at most %s and a build (%w)", o.name, took, 1600*slower, err)
			}
			results <- err
		}()
	}
	err := refusesInTime(w, lead, "the leader hears no node", 1200*slower)
	for range others {
		err = errors.Join(err, <-results)
	}
	return err
}
