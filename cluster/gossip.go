package cluster

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// GossipOptions configures gossip.
type GossipOptions struct {
	// Address is the host:port to listen on, UDP and TCP.
	Address string
	// Advertise is the host:port at which others reach it, with a name or an IP; derived from
	// Address if empty.
	Advertise string
	// Keys encrypts all messages.
	Keys *GossipKeys
}

// gossip announces the address of this node to the others and learns theirs, also while there is no
// leader. The addresses are hints: a connection to one succeeds only if the node there has the
// right certificate and server id.
type gossip struct {
	list *memberlist.Memberlist
	at   string // the advertised address; a copy, because memberlist holds its lock during callbacks
	node *Node
	keys *GossipKeys
}

// Timing of gossip.
const (
	gossipInterval = time.Second     // between two checks for changed keys and for missing peers
	gossipTimeout  = 2 * time.Second // of one exchange, also of the leave message of a stopping node
)

func (n *Node) openGossip() (*gossip, error) {
	o := n.cfg.Gossip
	if o == nil || n.alone() {
		return nil, nil
	}
	g := &gossip{node: n, keys: o.Keys}
	c := memberlist.DefaultLANConfig()
	c.Name = string(n.serverID())
	c.Label = n.cfg.Cluster
	c.DeadNodeReclaimTime = time.Second // a restarted pod has its former name and a new address
	c.TCPTimeout = gossipTimeout
	c.Keyring = o.Keys.ring
	c.Delegate, c.Events = g, g
	c.Logger = log.New(gossipLog{n.cfg.Logger.With("node", n.cfg.Name)}, "", 0)
	var err error
	if c.BindAddr, c.BindPort, err = hostPort(o.Address); err != nil {
		return nil, fmt.Errorf("address of gossip: %w", err)
	}
	c.AdvertisePort = c.BindPort
	if o.Advertise != "" {
		if c.AdvertiseAddr, c.AdvertisePort, err = hostPort(o.Advertise); err != nil {
			return nil, fmt.Errorf("advertised address of gossip: %w", err)
		}
	}
	if g.list, err = memberlist.Create(c); err != nil {
		return nil, fmt.Errorf("open the gossip port %s: %w", o.Address, err)
	}
	g.at = g.list.LocalNode().Address()
	return g, nil
}

// hostPort splits and resolves an address: memberlist accepts IP addresses only.
func hostPort(address string) (string, int, error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not a port number", p)
	}
	if host == "" {
		return "0.0.0.0", port, nil
	}
	ip, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return "", 0, err
	}
	return ip.String(), port, nil
}

// address returns the address at which others reach this node's gossip, or "" without gossip.
func (g *gossip) address() string {
	if g == nil {
		return ""
	}
	return g.at
}

// run rejoins the gossip of missing members, publishes a changed address of this node and loads
// changed keys, until ctx ends.
func (g *gossip) run(ctx context.Context) {
	t := time.NewTicker(gossipInterval)
	defer t.Stop()
	address := ""
	for {
		g.keys.reload(g.node.cfg.Logger)
		if a := g.node.cfg.Network.Address(); a != address {
			if err := g.list.UpdateNode(gossipTimeout); err == nil {
				address = a
			}
		}
		if missing := g.missing(); len(missing) > 0 {
			_, _ = g.list.Join(missing) // repeated in the next round; Ping and Join report unreachable nodes
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// members returns the server ids that gossip shows as alive; none without gossip.
func (g *gossip) members() map[string]bool {
	ids := map[string]bool{}
	if g == nil {
		return ids
	}
	for _, m := range g.list.Members() {
		ids[m.Name] = true
	}
	return ids
}

// missing returns the gossip addresses of members that gossip does not list.
func (g *gossip) missing() (out []string) {
	here := g.members()
	for _, s := range g.node.raft.Load().GetConfiguration().Configuration().Servers {
		if a := g.node.book.gossip(s.ID); a != "" && !here[string(s.ID)] {
			out = append(out, a)
		}
	}
	return out
}

func (g *gossip) close() error {
	if g == nil {
		return nil
	}
	_ = g.list.Leave(gossipTimeout) // others notice the missing node anyway
	return g.list.Shutdown()
}

// NodeMeta returns this node's identity, encoded.
func (g *gossip) NodeMeta(limit int) []byte {
	b, err := proto.Marshal(g.node.identity())
	if err != nil || len(b) > limit {
		return nil // the node's names are too long to gossip; the peer port still works
	}
	return b
}

// NotifyJoin, NotifyUpdate and NotifyLeave handle the identity that another node announces.
func (g *gossip) NotifyJoin(m *memberlist.Node)   { g.note(m) }
func (g *gossip) NotifyUpdate(m *memberlist.Node) { g.note(m) }
func (g *gossip) NotifyLeave(*memberlist.Node)    {}

func (g *gossip) note(m *memberlist.Node) {
	id := new(clusterv1.Identity)
	if proto.Unmarshal(m.Meta, id) != nil || id.GetServerId() != m.Name || id.GetServerId() == string(g.node.serverID()) {
		return
	}
	if err := g.node.checkIdentity(id); err != nil {
		g.node.cfg.Logger.Warn("gossip shows a node that cannot be in this cluster", "node", m.Name, "reason", err)
		return
	}
	if g.node.book.get(raft.ServerID(id.GetServerId())) != id.GetAddress() {
		g.node.cfg.Logger.Debug("gossip shows a node at an address", "node", m.Name, "address", id.GetAddress())
	}
	g.node.book.note(id)
	select {
	case g.node.recheck <- struct{}{}: // the node at the new address may know the leader
	default:
	}
}

// NotifyMsg, GetBroadcasts, LocalState and MergeRemoteState do nothing: only the members'
// identities are gossiped.
func (g *gossip) NotifyMsg([]byte)                {}
func (g *gossip) GetBroadcasts(int, int) [][]byte { return nil }
func (g *gossip) LocalState(bool) []byte          { return nil }
func (g *gossip) MergeRemoteState([]byte, bool)   {}

var (
	_ memberlist.Delegate      = (*gossip)(nil)
	_ memberlist.EventDelegate = (*gossip)(nil)
)

// gossipLog writes memberlist's log lines at debug level, those about refused packets as warnings.
type gossipLog struct{ log *slog.Logger }

// Write logs one line.
func (l gossipLog) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelDebug
	if strings.Contains(line, "decrypt") || strings.Contains(line, "label") {
		level = slog.LevelWarn
	}
	l.log.Log(context.Background(), level, "gossip: "+line)
	return len(p), nil
}
