package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
)

// devNode is one node of dev's, as a process of its own.
type devNode struct {
	name, dir                                 string
	grpc, http, metrics, health, pprof, peers string
	gossip                                    string
	conf                                      string
	*child
}

// devCluster is the name of the cluster that dev makes.
const devCluster = "dev"

// devNodes answers the nodes with their addresses: the first has the ones of
// the flags, the others the ports after them.
func devNodes(dir string, o devOptions) ([]*devNode, error) {
	var out []*devNode
	for i := range o.nodes {
		n := &devNode{name: "dev-" + strconv.Itoa(i), dir: filepath.Join(dir, "node")}
		if i > 0 {
			n.dir += "-" + strconv.Itoa(i)
		}
		for _, a := range []struct {
			to         *string
			flag, from string
			step       int
		}{
			{&n.grpc, "--grpc-address", o.grpcAddress, 1},
			{&n.http, "--http-address", o.httpAddress, 1},
			{&n.metrics, "--metrics-address", o.metricsAddress, 10},
			{&n.health, "--health-address", o.healthAddress, 10},
			{&n.pprof, "--pprof-address", o.pprofAddress, 10},
			{&n.peers, "--peer-address", o.peerAddress, 1},
			{&n.gossip, "--gossip-address", o.gossipAddress, 1},
		} {
			if o.nodes == 1 && (a.to == &n.peers || a.to == &n.gossip) {
				continue
			}
			host, port, err := net.SplitHostPort(a.from)
			p, perr := strconv.Atoi(port)
			if err = errors.Join(err, perr); err != nil {
				return nil, exitError{exitUsage, fmt.Errorf("%s %q is no address; write host:port", a.flag, a.from)}
			}
			*a.to = net.JoinHostPort(host, strconv.Itoa(p+i*a.step))
			if err := checkFree(a.flag, *a.to); err != nil {
				return nil, err
			}
		}
		out = append(out, n)
	}
	return out, nil
}

// writeDevConfigs makes keys, certificates and the configuration of each node.
func writeDevConfigs(dir string, nodes []*devNode, buildkitAddress string, o devOptions) error {
	daemons := []string{}
	if buildkitAddress != "" {
		daemons = append(daemons, buildkitAddress)
	}
	var peers, pages []string
	for _, n := range nodes {
		peers, pages = append(peers, n.peers), append(pages, "http://"+n.http)
	}
	// It is where a single node makes its own, so that one node can grow.
	sealing, gossip := filepath.Join(dir, "node.sealing-key.json"), filepath.Join(dir, "gossip-key")
	if len(nodes) > 1 {
		if err := errors.Join(unlessExists(builds.NewKeyFile(sealing)), unlessExists(cluster.NewGossipKeyFile(gossip))); err != nil {
			return fmt.Errorf("make the keys: %w", err)
		}
	}
	for _, n := range nodes {
		config := map[string]any{
			"buildkit":       map[string]any{"addresses": daemons},
			"name":           n.name,
			"dataDir":        n.dir,
			"http":           map[string]any{"address": n.http, "nodes": pages},
			"metricsAddress": n.metrics,
			"healthAddress":  n.health,
			"pprofAddress":   n.pprof,
			"server":         map[string]any{"services": map[string]any{"grpc": map[string]any{"address": n.grpc}}},
			"orchestrator": map[string]any{
				"baseImageRepository":      o.registryAddress + "/base-images",
				"workspaceImageRepository": o.registryAddress + "/workspace-images",
			},
			"registry": map[string]any{"allowLoopback": true},
			"ready":    map[string]any{"after": "0s"},
			"shutdown": map[string]any{"drain": "0s"},
			"clock":    map[string]any{"acceptJump": true}, // the data may be months old
		}
		if len(nodes) > 1 {
			// The certificates are renewed at each start: they may have expired since the last one.
			files, err := cluster.IssueCert(filepath.Join(dir, "certs"), cluster.CertIdentity{Cluster: devCluster, Role: cluster.RoleNode, Name: n.name}, true)
			if err != nil {
				return fmt.Errorf("make the certificates: %w", err)
			}
			config["peerAddress"] = n.peers
			config["sealing"] = map[string]any{"keyFile": sealing}
			config["cluster"] = map[string]any{
				"name": devCluster, "address": n.peers, "peers": peers, "expect": len(nodes),
				"tls":    map[string]any{"ca": files.CA, "crt": files.Cert, "key": files.Key},
				"gossip": map[string]any{"address": n.gossip, "keyFile": gossip},
			}
		}
		raw, err := json.MarshalIndent(config, "", "  ")
		if err != nil {
			return fmt.Errorf("write the node's config: %w", err)
		}
		n.conf = n.dir + ".json"
		if err := os.WriteFile(n.conf, raw, 0o600); err != nil {
			return fmt.Errorf("write the node's config: %w", err)
		}
	}
	return nil
}

func unlessExists(err error) error {
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

// start runs the process. It does not wait until the node is ready.
func (n *devNode) start(o devOptions) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	n.child, err = startChild(filepath.Dir(n.dir), filepath.Base(n.dir), o.verbose, self, "run", "--config", n.conf)
	return err
}

func (n *devNode) awaitReady(ctx context.Context) error {
	return n.awaitHTTP(ctx, "node "+n.name, "http://"+n.health+"/ready")
}

// startDevNodes runs all nodes and returns when they are ready.
func startDevNodes(ctx context.Context, nodes []*devNode, o devOptions) (err error) {
	for _, n := range nodes {
		if err := n.start(o); err != nil {
			return errors.Join(err, stopDevNodes(nodes))
		}
	}
	for _, n := range nodes {
		if err := n.awaitReady(ctx); err != nil {
			return errors.Join(err, stopDevNodes(nodes))
		}
	}
	return nil
}

func stopDevNodes(nodes []*devNode) (err error) {
	for _, n := range nodes {
		if n.child != nil {
			err = errors.Join(err, n.stop())
		}
	}
	return err
}

// reviveAfter is how long dev leaves a node dead that somebody has killed.
const reviveAfter = 3 * time.Second

// keepNodes starts nodes again that have ended, until ctx ends: dev invites to
// kill them, also all at once, when none gets ready without another.
func keepNodes(ctx context.Context, nodes []*devNode, o devOptions, out io.Writer) error {
	var says sync.Mutex
	say := func(format string, args ...any) {
		says.Lock()
		defer says.Unlock()
		fmt.Fprintf(out, format, args...)
	}
	others := "nobody serves meanwhile"
	if len(nodes) > 2 {
		others = "the others go on"
	}
	all, ctx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		all.Go(func() error {
			for {
				select {
				case <-n.done:
				case <-ctx.Done():
					return nil
				}
				say("%s (pid %d) has ended (%s); %s; starts again in %s\n", n.name, n.pid(), n.how(), others, reviveAfter)
				if !pause(ctx, reviveAfter) {
					return nil
				}
				if err := n.start(o); err != nil {
					return err
				}
				if err := n.awaitReady(ctx); err == nil {
					say("%s is back (pid %d)\n", n.name, n.pid())
				} else if ctx.Err() == nil {
					say("%s (pid %d): %v\n", n.name, n.pid(), err)
				}
			}
		})
	}
	return all.Wait()
}

// how a process ended.
func (c *child) how() string {
	if c.err == nil {
		return "status 0"
	}
	return c.err.Error()
}

// devNodesTable shows where the nodes are.
func devNodesTable(out io.Writer, dir string, nodes []*devNode) {
	for _, n := range nodes {
		fmt.Fprintf(out, "node      %s  (%s, pid %d, metrics %s, log %s)\n", n.grpc, n.name, n.pid(), n.metrics, strings.TrimPrefix(n.log, filepath.Dir(dir)+"/"))
	}
	fmt.Fprintln(out)
}
