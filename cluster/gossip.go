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

// GossipOptions says how a node gossips.
type GossipOptions struct {
	// Address is host:port to listen on, UDP and TCP.
	Address string
	// Advertise is host:port under which others reach it, as a name or an IP;
	// found from Address if empty.
	Advertise string
	// Keys encrypts all of it.
	Keys *GossipKeys
}

// gossip tells the other nodes where this one is, and learns where they are,
// also while there is no leader. What is heard is a hint and never truth: an
// address leads only to a node with the right certificate and server id.
type gossip struct {
	list *memberlist.Memberlist
	at   string // where others reach it: memberlist holds its lock when it calls back
	node *Node
	keys *GossipKeys
}

// Times of gossip.
const (
	gossipLook  = time.Second     // how often keys and lost peers are looked at
	gossipLeave = 2 * time.Second // how long one exchange may take, the goodbye of a stopping node too
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
	c.DeadNodeReclaimTime = time.Second // a pod comes back under its name at another address
	c.TCPTimeout = gossipLeave
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

// hostPort resolves an address: memberlist takes IPs only.
func hostPort(address string) (string, int, error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return "", 0, fmt.Errorf("%q is no port", p)
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

// address is where others reach this node's gossip.
func (g *gossip) address() string {
	if g == nil {
		return ""
	}
	return g.at
}

// run joins the gossip of all nodes that are known and takes changed keys up.
func (g *gossip) run(ctx context.Context) {
	t := time.NewTicker(gossipLook)
	defer t.Stop()
	address := ""
	for {
		g.keys.reload(g.node.cfg.Logger)
		if a := g.node.cfg.Network.Address(); a != address {
			if err := g.list.UpdateNode(gossipLeave); err == nil {
				address = a
			}
		}
		if away := g.away(); len(away) > 0 {
			_, _ = g.list.Join(away) // asked again; Ping and Join report unreachable nodes
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// away are gossip addresses of members that gossip does not show.
func (g *gossip) away() (out []string) {
	here := map[string]bool{}
	for _, m := range g.list.Members() {
		here[m.Name] = true
	}
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
	_ = g.list.Leave(gossipLeave) // a courtesy
	return g.list.Shutdown()
}

// NodeMeta is this node's identity.
func (g *gossip) NodeMeta(limit int) []byte {
	b, err := proto.Marshal(g.node.identity())
	if err != nil || len(b) > limit {
		return nil // the node's names are too long to gossip; the peer port still works
	}
	return b
}

// NotifyJoin, NotifyUpdate and NotifyLeave take up what a node says of itself.
func (g *gossip) NotifyJoin(m *memberlist.Node)   { g.note(m) }
func (g *gossip) NotifyUpdate(m *memberlist.Node) { g.note(m) }
func (g *gossip) NotifyLeave(*memberlist.Node)    {}

func (g *gossip) note(m *memberlist.Node) {
	id := new(clusterv1.Identity)
	if proto.Unmarshal(m.Meta, id) != nil || id.GetServerId() != m.Name || id.GetServerId() == string(g.node.serverID()) {
		return
	}
	if err := g.node.fits(id); err != nil {
		g.node.cfg.Logger.Warn("gossip shows a node that does not fit", "node", m.Name, "reason", err)
		return
	}
	if g.node.book.get(raft.ServerID(id.GetServerId())) != id.GetAddress() {
		g.node.cfg.Logger.Debug("gossip shows a node at an address", "node", m.Name, "address", id.GetAddress())
	}
	g.node.book.note(id)
	select {
	case g.node.kick <- struct{}{}: // a new address may be the way to the leader
	default:
	}
}

// NotifyMsg, GetBroadcasts, LocalState and MergeRemoteState: nothing but the
// members' identities is gossiped.
func (g *gossip) NotifyMsg([]byte)                {}
func (g *gossip) GetBroadcasts(int, int) [][]byte { return nil }
func (g *gossip) LocalState(bool) []byte          { return nil }
func (g *gossip) MergeRemoteState([]byte, bool)   {}

var (
	_ memberlist.Delegate      = (*gossip)(nil)
	_ memberlist.EventDelegate = (*gossip)(nil)
)

// gossipLog passes memberlist's lines on: refused packets are warnings.
type gossipLog struct{ log *slog.Logger }

// Write takes one line.
func (l gossipLog) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelDebug
	if strings.Contains(line, "decrypt") || strings.Contains(line, "label") {
		level = slog.LevelWarn
	}
	l.log.Log(context.Background(), level, "gossip: "+line)
	return len(p), nil
}
