package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/snapshot"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// indexes is a state machine that records the indexes of the commands that it applied.
type indexes struct{ all []uint64 }

func (s *indexes) Apply(index uint64, _ *clusterv1.Command) any {
	s.all = append(s.all, index)
	return index
}

func (s *indexes) Snapshot() (io.WriterTo, error) {
	var b bytes.Buffer
	for _, i := range s.all {
		b.Write(binary.BigEndian.AppendUint64(nil, i))
	}
	return &b, nil
}

func (s *indexes) Restore(r io.Reader) error {
	raw, err := io.ReadAll(r)
	s.all = nil
	for ; len(raw) > 0; raw = raw[8:] {
		s.all = append(s.all, binary.BigEndian.Uint64(raw))
	}
	return err
}

func (s *indexes) LastTime() int64 { return 0 }

// repairWorld is a node whose state is wrong, and one whose state is right, with the same log. The
// entries 4 and 9 are no commands.
type repairWorld struct {
	t            *testing.T
	log          *raft.InmemStore
	wrong, right *FSM
	has          *indexes // state of wrong
}

func newRepairWorld(t *testing.T, entries uint64) *repairWorld {
	t.Helper()
	w := &repairWorld{t: t, log: raft.NewInmemStore(), has: &indexes{}}
	w.wrong, w.right = New(Options{Machine: w.has, Origin: "a"}), New(Options{Machine: &indexes{}, Origin: "b"})
	raw, err := proto.Marshal(&clusterv1.Command{Ignorable: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= entries; i++ {
		l := &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: raw}
		if i == 4 || i == 9 {
			l.Type, l.Data = raft.LogNoop, nil
		}
		if err := w.log.StoreLog(l); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// apply passes entries to a node as Raft does.
func (w *repairWorld) apply(f *FSM, from, to uint64) {
	w.t.Helper()
	for i := from; i <= to; i++ {
		var l raft.Log
		if err := w.log.GetLog(i, &l); err != nil {
			w.t.Fatal(err)
		}
		if l.Type == raft.LogCommand {
			f.Apply(&l)
		}
	}
}

// state returns the state of the node with the right state.
func (w *repairWorld) state() []byte {
	w.t.Helper()
	s, err := w.right.Capture(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	var b bytes.Buffer
	if err := snapshot.Write(&b, s.At, s.State); err != nil {
		w.t.Fatal(err)
	}
	return b.Bytes()
}

func (w *repairWorld) want(applied uint64, values ...uint64) {
	w.t.Helper()
	if d := cmp.Diff(values, w.has.all); d != "" {
		w.t.Error(d)
	}
	if w.wrong.Index() != applied {
		w.t.Errorf("the applied index is %d, want %d", w.wrong.Index(), applied)
	}
}

// Test_Exchange replaces the state of a node that has passed over entries up to passed by a state
// that ends at the entry ends. Then Raft passes the remaining entries. Each entry must count once.
func Test_Exchange(t *testing.T) {
	for _, c := range []struct{ passed, ends uint64 }{
		{passed: 3, ends: 3}, {passed: 3, ends: 6}, {passed: 6, ends: 3}, {passed: 6, ends: 6}, {passed: 10, ends: 5}, {passed: 4, ends: 10},
	} {
		w := newRepairWorld(t, 10)
		w.apply(w.wrong, 1, 3)
		w.has.all[0] = 666
		if at := w.wrong.Hold(); at != 3 {
			t.Fatalf("the state is held at %d", at)
		}
		w.apply(w.wrong, 4, c.passed)
		w.want(3, 666, 2, 3)
		w.apply(w.right, 1, c.ends)
		replaced := w.wrong.Replaced()
		if err := w.wrong.Exchange(w.state(), w.log); err != nil {
			t.Fatal(err)
		}
		select {
		case <-replaced:
		default:
			t.Error("proposers still wait for results that are not delivered")
		}
		if _, err := w.wrong.Snapshot(); (err != nil) != (c.ends > max(c.passed, 3)) {
			t.Errorf("%+v: a snapshot of the new state: %v", c, err)
		}
		w.apply(w.wrong, c.passed+1, 10)
		w.want(10, 1, 2, 3, 5, 6, 7, 8, 10)
		if _, err := w.wrong.Snapshot(); err != nil {
			t.Error(err)
		}
	}
}

// Test_Exchange_Failures checks that a node continues with its own state if it gets no other one.
func Test_Exchange_Failures(t *testing.T) {
	for name, raw := range map[string]func(*repairWorld) []byte{
		"nothing": func(*repairWorld) []byte { return nil },
		"damaged": func(w *repairWorld) []byte { b := w.state(); b[20]++; return b },
		"too old": func(w *repairWorld) []byte { return w.state() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newRepairWorld(t, 10)
			w.apply(w.right, 1, 2)
			w.apply(w.wrong, 1, 3)
			w.has.all[0] = 666
			w.wrong.Hold()
			w.apply(w.wrong, 4, 6)
			if err := w.wrong.Exchange(raw(w), w.log); err == nil {
				t.Fatal("the state was exchanged")
			}
			if _, err := w.wrong.Snapshot(); !errors.Is(err, ErrHeld) {
				t.Errorf("a snapshot of a held state: %v", err)
			}
			if err := w.wrong.Release(w.log); err != nil {
				t.Fatal(err)
			}
			w.apply(w.wrong, 7, 10)
			w.want(10, 666, 2, 3, 5, 6, 7, 8, 10)
		})
	}
}

// Test_Exchange_SnapshotOfRaft checks that a snapshot that Raft installs meanwhile ends the
// exchange.
func Test_Exchange_SnapshotOfRaft(t *testing.T) {
	w := newRepairWorld(t, 10)
	w.apply(w.wrong, 1, 3)
	w.apply(w.right, 1, 6)
	w.wrong.Hold()
	old := w.state()
	w.apply(w.right, 7, 8)
	if err := w.wrong.Restore(io.NopCloser(bytes.NewReader(w.state()))); err != nil {
		t.Fatal(err)
	}
	if err := w.wrong.Exchange(old, w.log); !errors.Is(err, errReplaced) {
		t.Errorf("the exchange after a snapshot of Raft: %v", err)
	}
	if err := w.wrong.Release(w.log); err != nil {
		t.Fatal(err)
	}
	w.apply(w.wrong, 9, 10)
	w.want(10, 1, 2, 3, 5, 6, 7, 8, 10)
}
