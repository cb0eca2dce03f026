package raftguard_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/fsm"
	"github.com/image-builder-ha/image-builder/cluster/raftlog"
	"github.com/image-builder-ha/image-builder/cluster/snapshot"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// typesMachine records the types of its commands, and whether a snapshot has removed some.
type typesMachine struct {
	mu       sync.Mutex
	seen     []uint32
	wentBack bool
}

func (m *typesMachine) Apply(_ uint64, cmd *clusterv1.Command) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = append(m.seen, cmd.GetType())
	return nil
}

func (m *typesMachine) LastTime() int64 { return 0 }

func (m *typesMachine) Snapshot() (io.WriterTo, error) { return m.encode(m.types()), nil }

func (m *typesMachine) encode(types []uint32) io.WriterTo {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.BigEndian, types)
	return &b
}

func (m *typesMachine) Restore(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	types := make([]uint32, len(raw)/4)
	m.wentBack = m.wentBack || len(types) < len(m.seen)
	m.seen = types
	return binary.Read(bytes.NewReader(raw), binary.BigEndian, types)
}

func (m *typesMachine) types() []uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.seen)
}

// Test_InstallSnapshot_KeepsNewerEntries sends a delayed snapshot to a follower that has acknowledged
// entries after it. The follower keeps them on its disk, its state does not go back, and it follows
// on.
func Test_InstallSnapshot_KeepsNewerEntries(t *testing.T) {
	dir := t.TempDir()
	logs, snaps, sm := newLog(t, dir), raft.NewInmemSnapshotStore(), &typesMachine{}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.HeartbeatTimeout, conf.ElectionTimeout = "f", time.Hour, time.Hour
	_, inmem := raft.NewInmemTransport("f")
	var started atomic.Pointer[raft.Raft]
	follower := newGuard(inmem, logs, snaps, &started)
	_, leader := raft.NewInmemTransport("l")
	leader.Connect("f", inmem)
	servers := raft.Configuration{Servers: []raft.Server{{ID: "f", Address: "f"}, {ID: "l", Address: "l"}}}
	if err := raft.BootstrapCluster(conf, logs, logs, snaps, follower, servers); err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(conf, fsm.New(fsm.Options{Machine: sm, Origin: "f"}), logs, logs, snaps, follower)
	if err != nil {
		t.Fatal(err)
	}
	started.Store(r)
	former := raft.Configuration{Servers: servers.Servers[:1]}
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("l"), Addr: []byte("l")}
	send := func(first, last uint64) {
		t.Helper()
		req := &raft.AppendEntriesRequest{RPCHeader: header, Term: 5, PrevLogEntry: first - 1, PrevLogTerm: 5, LeaderCommitIndex: last}
		if first == 2 {
			req.PrevLogTerm = 1 // the entry of the bootstrap
		}
		for i := first; i <= last; i++ {
			raw, err := proto.Marshal(&clusterv1.Command{Type: uint32(i)})
			if err != nil {
				t.Fatal(err)
			}
			req.Entries = append(req.Entries, &raft.Log{Index: i, Term: 5, Type: raft.LogCommand, Data: raw})
		}
		res := new(raft.AppendEntriesResponse)
		if err := leader.AppendEntries("f", "f", req, res); err != nil || !res.Success {
			t.Fatalf("entries %d to %d: %v, %+v", first, last, err, res)
		}
	}
	install := func(last uint64) bool {
		t.Helper()
		var b bytes.Buffer
		all := sm.types()
		if err := snapshot.Write(&b, snapshot.Header{Index: last}, sm.encode(all[:last-1])); err != nil {
			t.Fatal(err)
		}
		res := new(raft.InstallSnapshotResponse)
		err := leader.InstallSnapshot("f", "f", &raft.InstallSnapshotRequest{
			RPCHeader: header, SnapshotVersion: raft.SnapshotVersionMax, Term: 5, LastLogIndex: last, LastLogTerm: 5,
			Configuration: raft.EncodeConfiguration(former), ConfigurationIndex: 1, Size: int64(b.Len()),
		}, res, &b)
		return err == nil && res.Success
	}
	has := func(last uint64) {
		t.Helper()
		testkit.Eventually(t, 20*time.Second, "all entries are applied", func() bool { return uint64(len(sm.types())) == last-1 })
		var entry raft.Log
		if got, err := logs.LastIndex(); err != nil || got != last {
			t.Errorf("the log ends at %d (%v), want %d", got, err, last)
		}
		if err := logs.GetLog(last, &entry); err != nil {
			t.Errorf("entry %d: %v", last, err)
		}
		if sm.wentBack {
			t.Error("the state went back")
		}
	}
	send(2, 20)
	has(20)
	if !install(10) {
		t.Error("the snapshot is refused")
	}
	has(20)
	send(21, 25)
	has(25)
	if err := r.Snapshot().Error(); err != nil {
		t.Fatal(err)
	}
	if !install(12) {
		t.Error("the snapshot is refused after a newer one of this node")
	}
	if got := r.GetConfiguration().Configuration(); len(got.Servers) != 2 {
		t.Errorf("the configuration went back to that of the snapshot: %v", got)
	}
	send(26, 30)
	has(30)
	if err := r.Shutdown().Error(); err != nil {
		t.Fatal(err)
	}
	follower.Stop()
	if err := logs.Close(); err != nil {
		t.Fatal(err)
	}
	logs, err = raftlog.Open(raftlog.Options{Dir: dir, SegmentBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = logs.Close() }()
	if err := logs.Verify(0, func(*raft.Log) {}); err != nil {
		t.Fatal(err)
	}
	if last, err := logs.LastIndex(); last != 30 || err != nil {
		t.Errorf("after a restart the log ends at entry %d (%v), want 30", last, err)
	}
}
