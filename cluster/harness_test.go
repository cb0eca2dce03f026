package cluster_test

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

func TestMain(m *testing.M) {
	if writeUntilKilled() {
		return
	}
	// Futures that Raft had queued when it shut down never complete; see callCounter.await.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/raft.(*deferError).Error"))
}

// tally is a state machine that records the payloads of its commands.
type tally struct {
	mu   sync.Mutex
	seen []uint64
	time int64
}

type unknown struct{ error }

func (unknown) Fatal() bool { return true }

func (s *tally) Apply(_ uint64, cmd *clusterv1.Command) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.time = max(s.time, cmd.TimeUnixNano)
	switch cmd.Type {
	case 0:
		return nil
	case 1:
		v := binary.BigEndian.Uint64(cmd.Payload)
		s.seen = append(s.seen, v)
		return v
	}
	return unknown{errors.New("what is this")}
}

func (s *tally) LastTime() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.time
}

func (s *tally) values() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]uint64(nil), s.seen...)
}

type tallySnapshot []byte

func (b tallySnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b)
	return int64(n), err
}

func (s *tally) Snapshot() (io.WriterTo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := binary.BigEndian.AppendUint64(nil, uint64(s.time))
	for _, v := range s.seen {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return tallySnapshot(b), nil
}

func (s *tally) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = nil
	for i := 0; i < len(b); i += 8 {
		v := binary.BigEndian.Uint64(b[i:])
		if i == 0 {
			s.time = int64(v)
			continue
		}
		s.seen = append(s.seen, v)
	}
	return nil
}

func fastConfig(dir string, sm cluster.StateMachine) cluster.Config {
	return cluster.Config{
		Name: "n1", DataDir: dir, StateMachine: sm,
		Heartbeat: 50 * time.Millisecond, Election: 50 * time.Millisecond, Lease: 50 * time.Millisecond,
	}
}

// open starts a node. The test fails if the node does not start.
func open(t testing.TB, cfg cluster.Config) *cluster.Node {
	t.Helper()
	n, err := tryOpen(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func tryOpen(t testing.TB, cfg cluster.Config) (*cluster.Node, error) {
	n, err := cluster.New(cfg)
	if err != nil {
		return nil, err
	}
	return n, n.Open(t.Context())
}

func put(t testing.TB, n *cluster.Node, v uint64) cluster.Applied {
	t.Helper()
	res, err := n.Propose(t.Context(), value(v))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func value(v uint64) *clusterv1.Command {
	return &clusterv1.Command{Type: 1, Payload: binary.BigEndian.AppendUint64(nil, v)}
}
