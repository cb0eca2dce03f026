package cluster

import (
	"context"
	"log/slog"
	"slices"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/transport"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Reached_WhoLeads: the leader that this node knows leads if it says so.
func Test_Reached_WhoLeads(t *testing.T) {
	const term = 7
	for name, c := range map[string]struct {
		reports *string
		term    uint64
		knows   raft.ServerID // leader that this node knows
		want    bool
	}{
		"the leader":                        {proto.String("n2/c"), term, "n2/c", true},
		"a leader that is not known yet":    {proto.String("n2/c"), term, "", true},
		"a leader of a later term":          {proto.String("n2/c"), term + 1, "n0/a", true},
		"a leader of a former term":         {proto.String("n2/c"), term - 1, "n2/c", false},
		"a leader that has stepped down":    {proto.String(""), term, "n2/c", false},
		"a former leader that follows":      {proto.String("n0/a"), term + 1, "n2/c", false},
		"the leader, of 0.3.0":              {nil, term, "n2/c", true},
		"a member of 0.3.0":                 {nil, term, "n0/a", false},
		"a member of 0.3.0, without leader": {nil, term, "", false},
	} {
		p := memberPing{id: "n2/c", res: &clusterv1.PingResponse{Leader: c.reports, Term: c.term}}
		if got := leads(p, c.knows, term); got != c.want {
			t.Errorf("%s leads: %v, want %v", name, got, c.want)
		}
	}
}

// Test_Reached_AsksTheLeader: a node whose configuration does not name the leader asks it, too.
func Test_Reached_AsksTheLeader(t *testing.T) {
	const self = "n0/a"
	voters := []raft.ServerID{"n1/b", "n2/c", "n4/e"}[:2] // must not write after the end
	for leader, want := range map[raft.ServerID][]raft.ServerID{
		"": voters, self: voters, "n1/b": voters, "n3/d": {"n1/b", "n2/c", "n3/d"},
	} {
		if got := withLeader(voters, leader, self); !slices.Equal(got, want) {
			t.Errorf("leader %q: asks %v, want %v", leader, got, want)
		}
	}
	if all := voters[:3]; all[2] != "n4/e" {
		t.Errorf("the voters are changed: %v", all)
	}
}

// oneResult is the network of a member of which all calls return the same error, or nil.
type oneResult struct {
	transport.Network
	err, probe error
}

func (o oneResult) Conn(raft.ServerID, string) (grpc.ClientConnInterface, error) { return o, nil }
func (o oneResult) Probe(context.Context, string) error                          { return o.probe }
func (o oneResult) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return o.err
}

func (o oneResult) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, o.err
}

// Test_Reached_AStartingMemberIsThere: a process that starts counts as present. So does one that has
// ended, because it may come back.
func Test_Reached_AStartingMemberIsThere(t *testing.T) {
	for name, c := range map[string]struct {
		err, probe error
		want       bool
	}{
		"a member":                     {nil, nil, true},
		"a process that starts":        {errStarting, nil, true},
		"a process that has ended":     {status.Error(codes.Unavailable, "connection error"), syscall.ECONNREFUSED, true},
		"a host that does not respond": {status.Error(codes.Unavailable, "connection error"), context.DeadlineExceeded, false},
		"a process that is paused":     {status.Error(codes.DeadlineExceeded, "this node is starting"), nil, false},
	} {
		n := &Node{cfg: Config{Network: oneResult{err: c.err, probe: c.probe}, Logger: slog.New(slog.DiscardHandler)}}
		if p := n.pingOne(t.Context(), "n2/c"); p.there != c.want || (p.res != nil) != (c.err == nil) {
			t.Errorf("%s is there: %v, want %v", name, p.there, c.want)
		}
	}
}
