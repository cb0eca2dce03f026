package raftguard_test

import (
	"bytes"
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/fsm"
	"github.com/image-builder-ha/image-builder/cluster/raftguard"
	"github.com/image-builder-ha/image-builder/cluster/raftlog"
	"github.com/image-builder-ha/image-builder/cluster/snapshot"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// follower is a follower whose leader is the test.
type follower struct {
	t      *testing.T
	logs   *raftlog.Log
	raft   atomic.Pointer[raft.Raft]
	leader *raft.InmemTransport
	header raft.RPCHeader
	server raft.Configuration
}

// newLog returns an empty log.
func newLog(t testing.TB, dir string) *raftlog.Log {
	t.Helper()
	log, err := raftlog.Open(raftlog.Options{Dir: dir, SegmentBytes: 1 << 20, Fresh: true})
	if err == nil {
		err = log.Verify(0, func(*raft.Log) {})
	}
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// newGuard returns the guard of a node that may send everything.
func newGuard(t raft.Transport, log raft.LogStore, snaps raft.SnapshotStore, r *atomic.Pointer[raft.Raft]) *raftguard.Guard {
	return raftguard.New(t, raftguard.Options{MaySend: func(raft.ServerID) error { return nil }, Log: log, Snapshots: snaps, Raft: r.Load})
}

func newFollower(t *testing.T, dir string) *follower {
	f := &follower{t: t, logs: newLog(t, dir), header: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("l"), Addr: []byte("l")}}
	conf := raft.DefaultConfig()
	conf.LocalID, conf.HeartbeatTimeout, conf.ElectionTimeout = "f", time.Hour, time.Hour
	_, inmem := raft.NewInmemTransport("f")
	snaps := raft.NewInmemSnapshotStore()
	trans := newGuard(inmem, f.logs, snaps, &f.raft)
	_, f.leader = raft.NewInmemTransport("l")
	f.leader.Connect("f", inmem)
	f.server = raft.Configuration{Servers: []raft.Server{{ID: "f", Address: "f"}, {ID: "l", Address: "l"}}}
	if err := raft.BootstrapCluster(conf, f.logs, f.logs, snaps, trans, f.server); err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(conf, fsm.New(fsm.Options{Machine: &typesMachine{}, Origin: "f"}), f.logs, f.logs, snaps, trans)
	if err != nil {
		t.Fatal(err)
	}
	f.raft.Store(r)
	t.Cleanup(func() {
		if err := r.Shutdown().Error(); err != nil {
			t.Error(err)
		}
		trans.Stop()
		_ = f.logs.Close()
	})
	return f
}

// send sends the entries from first to last of a term, after an entry of the term prev. It reports
// whether they were acknowledged.
func (f *follower) send(term, prev, first, last uint64) bool {
	f.t.Helper()
	req := &raft.AppendEntriesRequest{RPCHeader: f.header, Term: term, PrevLogEntry: first - 1, PrevLogTerm: prev}
	for i := first; i <= last; i++ {
		raw, err := proto.Marshal(&clusterv1.Command{Type: uint32(i)})
		if err != nil {
			f.t.Fatal(err)
		}
		req.Entries = append(req.Entries, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: raw})
	}
	res := new(raft.AppendEntriesResponse)
	if err := f.leader.AppendEntries("f", "f", req, res); err != nil {
		f.t.Fatal(err)
	}
	return res.Success
}

// install sends a snapshot that ends at an entry of a term, and reports whether it was accepted.
func (f *follower) install(last, term uint64) bool {
	f.t.Helper()
	var state, b bytes.Buffer
	_ = binary.Write(&state, binary.BigEndian, make([]uint32, last-1))
	if err := snapshot.Write(&b, snapshot.Header{Index: last}, &state); err != nil {
		f.t.Fatal(err)
	}
	res := new(raft.InstallSnapshotResponse)
	err := f.leader.InstallSnapshot("f", "f", &raft.InstallSnapshotRequest{
		RPCHeader: f.header, SnapshotVersion: raft.SnapshotVersionMax, Term: term, LastLogIndex: last, LastLogTerm: term,
		Configuration: raft.EncodeConfiguration(f.server), ConfigurationIndex: 1, Size: int64(b.Len()),
	}, res, &b)
	return err == nil && res.Success
}

// has checks that the log has the entries from first to last.
func (f *follower) has(first, last uint64) {
	f.t.Helper()
	for i := first; i <= last; i++ {
		var l raft.Log
		if err := f.logs.GetLog(i, &l); err != nil {
			f.t.Errorf("entry %d, which was acknowledged: %v", i, err)
		}
	}
}

// Test_AfterSnapshot_Repeated repeats entries right after a snapshot, as a leader does whose first
// message had no response. The follower must acknowledge them again. If the leader sends the snapshot
// again, the follower must keep them.
func Test_AfterSnapshot_Repeated(t *testing.T) {
	f := newFollower(t, t.TempDir())
	if !f.install(50, 5) || !f.send(5, 5, 51, 55) {
		t.Fatal("the snapshot or the entries after it are refused")
	}
	if !f.send(5, 5, 51, 55) || !f.send(5, 5, 51, 58) {
		t.Error("the entries right after the snapshot are refused the second time")
	}
	if !f.install(50, 5) {
		t.Error("the snapshot is refused the second time")
	}
	f.has(51, 58)
	if !f.send(5, 5, 59, 60) {
		t.Error("further entries are refused")
	}
	f.has(51, 60)
}

// Test_AfterSnapshot_Conflict replaces the entries right after a snapshot by those of a later leader.
func Test_AfterSnapshot_Conflict(t *testing.T) {
	dir := t.TempDir()
	f := newFollower(t, dir)
	if !f.install(50, 5) || !f.send(5, 5, 51, 60) {
		t.Fatal("the snapshot or the entries after it are refused")
	}
	if !f.send(6, 5, 51, 53) {
		t.Error("the entries of the later leader are refused")
	}
	f.has(51, 53)
	if got, err := f.logs.LastIndex(); got != 53 || err != nil {
		t.Errorf("the log ends at %d (%v), want 53", got, err)
	}
	if f.send(6, 4, 51, 52) {
		t.Error("entries after an entry of another term than that of the snapshot are acknowledged")
	}
}
