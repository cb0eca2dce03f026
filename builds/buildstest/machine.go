package buildstest

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Machine is a store with the node n1 (store id s1, boot id boot-1), which can run 100 attempts. It
// is not safe for concurrent use, except for its Store.
type Machine struct {
	T     testing.TB
	Store *builds.Store
	// Index is the index of the last command.
	Index uint64
	// Now is the time of the next command.
	Now time.Time
	// IDs is the number of builds that Create has requested.
	IDs int
	// Log, if it is set, is called with each command.
	Log func(*clusterv1.Command)
}

// NewMachine returns a machine with an empty state.
func NewMachine(t testing.TB) *Machine {
	t.Helper()
	m := &Machine{T: t, Store: builds.NewStore(), Now: time.Unix(1_700_000_000, 0)}
	m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-1", Capacity: 100, Runtimes: []string{"copy"}})
	return m
}

// Apply applies a command and returns its result.
func (m *Machine) Apply(payload proto.Message) builds.Result {
	m.T.Helper()
	cmd, err := builds.NewCommand(payload)
	if err != nil {
		m.T.Fatal(err)
	}
	cmd.TimeUnixNano = m.Now.UnixNano()
	if m.Log != nil {
		m.Log(cmd)
	}
	m.Index++
	switch out := m.Store.Apply(m.Index, cmd).(type) {
	case builds.Result:
		return out
	default:
		m.T.Fatalf("apply %T: %v", payload, out)
		return builds.Result{}
	}
}

// Must is like Apply, and fails the test if the state refuses the command.
func (m *Machine) Must(payload proto.Message) builds.Result {
	m.T.Helper()
	res := m.Apply(payload)
	if res.Err != nil {
		m.T.Fatalf("apply %T: %v", payload, res.Err)
	}
	return res
}

// Counts returns the sizes of the tables.
func (m *Machine) Counts() (c builds.Counts) {
	m.Store.Read(func(s *builds.State) { c = s.Counts() })
	return c
}

// Dump returns the snapshot of a store. Equal states have equal snapshots.
func Dump(t testing.TB, s *builds.Store) []byte {
	t.Helper()
	snap, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := snap.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
