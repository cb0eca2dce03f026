// Package gossip announces the address of a node to the others and learns theirs, even while there
// is no leader. Addresses from gossip are hints: the package checks no certificate and decides
// nothing.
package gossip

import (
	"context"
	"fmt"
	stdlog "log"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Options configures gossip.
type Options struct {
	// Address is the host:port to listen on, UDP and TCP.
	Address string
	// Advertise is the host:port at which others reach it, with a name or an IP; derived from
	// Address if empty.
	Advertise string
	// Keys encrypts all messages.
	Keys *Keys
}

// Local is the part of a node that gossip uses.
type Local interface {
	// Identity returns the node's current identity.
	Identity() *clusterv1.Identity
	// GossipAddresses returns the known addresses of gossip of the members, by server id.
	GossipAddresses() map[string]string
	// Announced handles the identity that another node announces.
	Announced(id *clusterv1.Identity)
}

// Gossip announces the address of this node to the others and learns theirs, even while there is no
// leader. The addresses are hints: a connection to one succeeds only if the node there has the
// right certificate and server id. A nil Gossip shows no nodes.
type Gossip struct {
	list  *memberlist.Memberlist
	at    string // the advertised address; a copy, because memberlist holds its lock during callbacks
	self  string // server id of this node
	local Local
	log   *slog.Logger
	keys  *Keys
}

// Timing of gossip.
const (
	interval = time.Second     // between two checks for changed keys and for missing peers
	timeout  = 2 * time.Second // of one exchange, also of the leave message of a stopping node
)

// Open opens the port of gossip. log receives the lines about changed keys, transport those of
// memberlist. The caller runs and closes it.
func Open(o Options, local Local, log, transport *slog.Logger) (*Gossip, error) {
	self := local.Identity()
	g := &Gossip{self: self.GetServerId(), local: local, log: log, keys: o.Keys}
	c := memberlist.DefaultLANConfig()
	c.Name = self.GetServerId()
	c.Label = self.GetCluster()
	c.DeadNodeReclaimTime = time.Second // a restarted pod has its former name and a new address
	c.TCPTimeout = timeout
	c.Keyring = o.Keys.ring
	c.Delegate, c.Events = g, g
	c.Logger = stdlog.New(lines{transport}, "", 0)
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

// Address returns the address at which others reach this node's gossip, or "" without gossip.
func (g *Gossip) Address() string {
	if g == nil {
		return ""
	}
	return g.at
}

// Run rejoins the gossip of missing members, publishes a changed address of this node and loads
// changed keys, until ctx ends.
func (g *Gossip) Run(ctx context.Context) {
	t := time.NewTicker(interval)
	defer t.Stop()
	address := ""
	for {
		g.keys.reload(g.log)
		if a := g.local.Identity().GetAddress(); a != address {
			if err := g.list.UpdateNode(timeout); err == nil {
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

// Members returns the server ids that gossip shows as alive; none without gossip.
func (g *Gossip) Members() map[string]bool {
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
func (g *Gossip) missing() (out []string) {
	here := g.Members()
	for id, a := range g.local.GossipAddresses() {
		if !here[id] {
			out = append(out, a)
		}
	}
	return out
}

// Close leaves gossip and closes its port.
func (g *Gossip) Close() error {
	if g == nil {
		return nil
	}
	_ = g.list.Leave(timeout) // others notice the missing node anyway
	return g.list.Shutdown()
}

// NodeMeta returns this node's identity, encoded.
func (g *Gossip) NodeMeta(limit int) []byte {
	b, err := proto.Marshal(g.local.Identity())
	if err != nil || len(b) > limit {
		return nil // the node's names are too long to gossip; the peer port still works
	}
	return b
}

// NotifyJoin, NotifyUpdate and NotifyLeave handle the identity that another node announces.
func (g *Gossip) NotifyJoin(m *memberlist.Node)   { g.note(m) }
func (g *Gossip) NotifyUpdate(m *memberlist.Node) { g.note(m) }
func (g *Gossip) NotifyLeave(*memberlist.Node)    {}

func (g *Gossip) note(m *memberlist.Node) {
	id := new(clusterv1.Identity)
	if proto.Unmarshal(m.Meta, id) != nil || id.GetServerId() != m.Name || id.GetServerId() == g.self {
		return
	}
	g.local.Announced(id)
}

// NotifyMsg, GetBroadcasts, LocalState and MergeRemoteState do nothing: only the members'
// identities are gossiped.
func (g *Gossip) NotifyMsg([]byte)                {}
func (g *Gossip) GetBroadcasts(int, int) [][]byte { return nil }
func (g *Gossip) LocalState(bool) []byte          { return nil }
func (g *Gossip) MergeRemoteState([]byte, bool)   {}

var (
	_ memberlist.Delegate      = (*Gossip)(nil)
	_ memberlist.EventDelegate = (*Gossip)(nil)
)

// lines writes memberlist's log lines at debug level, those about refused packets as warnings.
type lines struct{ log *slog.Logger }

// Write logs one line.
func (l lines) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelDebug
	if strings.Contains(line, "decrypt") || strings.Contains(line, "label") {
		level = slog.LevelWarn
	}
	l.log.Log(context.Background(), level, "gossip: "+line)
	return len(p), nil
}
