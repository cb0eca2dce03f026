package cluster_test

import (
	"net"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/cluster/pki"
	"github.com/image-builder-ha/image-builder/cluster/transport"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// orderedNode records in which order the two ends of a connection take their floors and make their
// identities. steps counts these steps on both ends.
type orderedNode struct {
	t         *testing.T
	id, other string
	address   func(id raft.ServerID) string
	steps     *atomic.Uint64
	admitted  atomic.Int64
}

func (o *orderedNode) Identity() *clusterv1.Identity {
	step := o.steps.Add(1)
	return &clusterv1.Identity{ServerId: o.id, LastIndex: &step}
}

func (o *orderedNode) Admission() func(*clusterv1.Identity, string) error {
	floorAt := o.steps.Add(1)
	return func(from *clusterv1.Identity, to string) error {
		if from.GetServerId() != o.other || to != o.id {
			o.t.Errorf("%s admits %s, which wants to reach %s", o.id, from.GetServerId(), to)
		}
		if from.GetLastIndex() < floorAt {
			o.t.Errorf("%s compares an identity of step %d with a floor of step %d", o.id, from.GetLastIndex(), floorAt)
		}
		o.admitted.Add(1)
		return nil
	}
}

func (o *orderedNode) AddressOf(id raft.ServerID) string { return o.address(id) }
func (o *orderedNode) Lost(raft.ServerID)                {}
func (o *orderedNode) Register(grpc.ServiceRegistrar)    {}

// Test_Handshake_TakesFloorsFirst connects two nodes. Each end must take the floor before the other
// end makes the identity that is compared with it.
func Test_Handshake_TakesFloorsFirst(t *testing.T) {
	dir, steps := t.TempDir(), new(atomic.Uint64)
	nets, nodes := map[raft.ServerID]transport.Network{}, map[string]*orderedNode{}
	for name, other := range map[string]string{"a": "b", "b": "a"} {
		files, err := pki.IssueCert(dir, pki.CertIdentity{Cluster: "test", Role: pki.RoleNode, Name: name}, false)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := pki.LoadCerts(files, testLogger(name))
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		n := transport.NewTLS(transport.TLSOptions{Cluster: "test", Listener: l, Advertise: l.Addr().String(), Certs: certs, Logger: testLogger(name)})
		nodes[name] = &orderedNode{t: t, id: name + "/1", other: other + "/1", steps: steps, address: func(id raft.ServerID) string { return nets[id].Address() }}
		nets[raft.ServerID(name+"/1")] = n
	}
	for name, o := range nodes {
		n := nets[raft.ServerID(name+"/1")]
		if err := n.Open(o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
	}
	go func() { // ends when the call below has its response
		rpc := <-nets["b/1"].Raft().Consumer()
		rpc.Respond(&raft.RequestVoteResponse{Term: 7}, nil)
	}()
	var res raft.RequestVoteResponse
	if err := nets["a/1"].Raft().RequestVote("b/1", "b/1", &raft.RequestVoteRequest{}, &res); err != nil || res.Term != 7 {
		t.Fatal(err, res)
	}
	for name, o := range nodes {
		if o.admitted.Load() != 1 {
			t.Errorf("%s has admitted %d connections", name, o.admitted.Load())
		}
	}
}
