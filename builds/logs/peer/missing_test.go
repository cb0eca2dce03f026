package peer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_OpenLog_MissingCopies: readers get ErrLogDamaged once each node of the set of copies has
// responded, or cannot have its copy any more, and ErrLogAway while a node may have one. All
// readers on all nodes get the same, and the node whose copy is missing logs that once.
func Test_OpenLog_MissingCopies(t *testing.T) {
	for name, c := range map[string]struct {
		copies string // of the log; only n1 and n2 run, and have no file of it
		state  *buildsv1.ForgetNode
		want   error
		texts  []string
	}{
		"the only copy":               {copies: "n1/s1", want: builds.ErrLogDamaged, texts: []string{"node n1: ", "not on the disk"}},
		"both copies":                 {copies: "n1/s1 n2/s2", want: builds.ErrLogDamaged, texts: []string{"node n1: ", "node n2: ", "not on the disk"}},
		"the other node is down":      {copies: "n1/s1 n3/s3", want: builds.ErrLogAway, texts: []string{"node n1: ", "n3"}},
		"the other node was wiped":    {copies: "n1/s1 n3/old", want: builds.ErrLogDamaged, texts: []string{"node n3: it has a new data directory"}},
		"the other node is forgotten": {copies: "n1/s1 n3/s3", state: &buildsv1.ForgetNode{Name: "n3", StoreId: "s3"}, want: builds.ErrLogDamaged, texts: []string{"node n3: it was removed"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := buildstest.NewMachine(t)
			m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
			for _, n := range []string{"2", "3"} {
				m.Must(&buildsv1.NodeStarted{Name: "n" + n, StoreId: "s" + n, BootId: "b", Capacity: 1, Runtimes: []string{"copy"}})
			}
			id := m.Create("r:1").Build.Id
			m.Succeed(id)
			var copies []*imagebuilderv1.LogCopy
			for _, at := range strings.Fields(c.copies) {
				node, store, _ := strings.Cut(at, "/")
				copies = append(copies, &imagebuilderv1.LogCopy{Node: node, StoreId: store})
			}
			a := m.Build(id).Attempts[0]
			m.Must(&buildsv1.SetLogCopies{BuildId: id, Attempt: 1, Epoch: a.Epoch, Former: builds.CopiesOf(a), Copies: copies})
			if c.state != nil {
				m.Must(c.state)
			}
			nodes, journal := openNodes(t, map[string]*builds.Store{"n1": m.Store, "n2": m.Store})
			key := logs.Key{Build: id, Attempt: 1}
			for range 3 {
				for by, l := range nodes {
					_, err := l.OpenLog(t.Context(), id, 1, 0, true)
					if !errors.Is(err, c.want) || errors.Is(err, builds.ErrLogAway) != (c.want == builds.ErrLogAway) {
						t.Errorf("by node %s: %v, want %v", by, err, c.want)
					}
					for _, text := range c.texts {
						if err == nil || !strings.Contains(err.Error(), text) || strings.Count(err.Error(), "node n1: ") > 1 {
							t.Errorf("by node %s: %v does not say %q once", by, err, text)
						}
					}
				}
			}
			if keys, _ := nodes["n2"].Damaged(); (len(keys) > 0) != strings.Contains(c.copies, "n2") {
				t.Errorf("n2 has the damaged copies %v", keys)
			}
			if keys, _ := nodes["n1"].Damaged(); len(keys) != 1 || keys[0] != key {
				t.Errorf("n1 has the damaged copies %v", keys)
			}
			if n := strings.Count(journal["n1"].String(), "damaged"); n != 1 {
				t.Errorf("n1 logs the missing copy %d times:\n%s", n, journal["n1"])
			}
		})
	}
}

// Test_OpenLog_ReaderIsBehind: a node has given up its copy, and receives a call of a reader that
// does not know that yet. This is not a damaged copy.
func Test_OpenLog_ReaderIsBehind(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.NodeStarted{Name: "n2", StoreId: "s2", BootId: "b", Capacity: 1, Runtimes: []string{"copy"}})
	id := m.Create("r:1").Build.Id
	m.Succeed(id)
	nodes, _ := openNodes(t, map[string]*builds.Store{"n2": m.Store})
	if _, err := nodes["n2"].openLocal(t.Context(), logs.Key{Build: id, Attempt: 1}, 0); !errors.Is(err, builds.ErrNotFound) {
		t.Errorf("%v, want %v", err, builds.ErrNotFound)
	}
	if keys, _ := nodes["n2"].Damaged(); len(keys) > 0 {
		t.Errorf("damaged copies %v", keys)
	}
}

// Test_OpenLog_TheOtherNodeIsBehind: the only node with a copy does not know yet that the log is
// complete, and shows fewer bytes. A reader on another node must not mistake them for the whole
// log.
func Test_OpenLog_TheOtherNodeIsBehind(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	m.Must(&buildsv1.NodeStarted{Name: "n2", StoreId: "s2", BootId: "b", Capacity: 1, Runtimes: []string{"copy"}})
	id := m.Create("r:1").Build.Id
	m.Succeed(id)
	a := m.Build(id).Attempts[0]
	m.Must(&buildsv1.SetLogCopies{BuildId: id, Attempt: 1, Epoch: a.Epoch, Former: builds.CopiesOf(a), Copies: []*imagebuilderv1.LogCopy{{Node: "n2", StoreId: "s2"}}})
	nodes, _ := openNodes(t, map[string]*builds.Store{"n1": m.Store, "n2": builds.NewStore()})
	if _, err := nodes["n2"].store.Create(logs.Key{Build: id, Attempt: 1}, 1, nil, true); err != nil {
		t.Fatal(err)
	}
	for _, follow := range []bool{false, true} {
		if _, err := nodes["n1"].OpenLog(t.Context(), id, 1, 0, follow); !errors.Is(err, builds.ErrLogAway) {
			t.Errorf("follow %t: %v, want %v", follow, err, builds.ErrLogAway)
		}
	}
}

// openNodes opens the logs of nodes with empty disks, which can call each other, and what they log.
// The store id of n1 is s1. Each node has a state of its own.
func openNodes(t *testing.T, states map[string]*builds.Store) (map[string]*Logs, map[string]*bytes.Buffer) {
	t.Helper()
	nodes, journal := map[string]*Logs{}, map[string]*bytes.Buffer{}
	conns := map[string]*grpc.ClientConn{}
	conn := func(node, _ string) (grpc.ClientConnInterface, error) {
		if c := conns[node]; c != nil {
			return c, nil
		}
		return nil, errors.New("the node " + node + " is down")
	}
	for name, state := range states {
		journal[name] = &bytes.Buffer{}
		log := slog.New(slog.NewTextHandler(journal[name], nil))
		l, err := Open(Options{
			Node: name, StoreID: "s" + name[1:], Conn: conn, State: state, Stopping: t.Context(), Log: log,
			Store: logs.Options{Dir: t.TempDir(), Logger: log},
		})
		if err != nil {
			t.Fatal(err)
		}
		nodes[name] = l
		listener := bufconn.Listen(1 << 16)
		server := grpc.NewServer()
		Register(server, l)
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener) }()
		conns[name], err = grpc.NewClient("passthrough:///"+name, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = conns[name].Close()
			server.Stop()
			l.StopCopying()
			if err := errors.Join(<-served, l.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	return nodes, journal
}
