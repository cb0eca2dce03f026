package dev

import (
	"context"
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

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
)

// devNode is one node, which runs as a process of its own.
type devNode struct {
	name, dir                                 string
	grpc, http, metrics, health, pprof, peers string
	gossip                                    string
	conf                                      string
	*process
}

// newNodes returns the nodes with their addresses, which have to be free. The first node has the
// addresses of the flags, the others have the ports after them.
func newNodes(dir string, o options) ([]*devNode, error) {
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
				return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("%s %q is not an address; write host:port", a.flag, a.from))
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

// start starts the process. It does not wait until the node is ready.
func (n *devNode) start(o options) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	n.process, err = startProcess(filepath.Dir(n.dir), filepath.Base(n.dir), o.verbose, self, "run", "--config", n.conf)
	return err
}

// awaitReady waits until the node is ready.
func (n *devNode) awaitReady(ctx context.Context) error {
	return n.awaitHTTP(ctx, "node "+n.name, "http://"+n.health+"/ready")
}

// startNodes starts all nodes and waits until they are ready. On an error it stops them.
func startNodes(ctx context.Context, nodes []*devNode, o options) (err error) {
	for _, n := range nodes {
		if err := n.start(o); err != nil {
			return errors.Join(err, stopNodes(nodes))
		}
	}
	for _, n := range nodes {
		if err := n.awaitReady(ctx); err != nil {
			return errors.Join(err, stopNodes(nodes))
		}
	}
	return nil
}

// stopNodes stops all nodes that were started.
func stopNodes(nodes []*devNode) (err error) {
	for _, n := range nodes {
		if n.process != nil {
			err = errors.Join(err, n.stop())
		}
	}
	return err
}

// restartDelay is the time between the end of a node and its restart.
const restartDelay = 3 * time.Second

// restartNodes restarts nodes that end, until ctx ends. The nodes are restarted concurrently: if all
// of them were killed at once, none becomes ready before another one is restarted.
func restartNodes(ctx context.Context, nodes []*devNode, o options, out io.Writer) error {
	var mu sync.Mutex
	printf := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, format, args...)
	}
	others := "no node serves meanwhile"
	if len(nodes) > 2 {
		others = "the others continue"
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
				printf("%s (pid %d) has ended (%s); %s; it restarts in %s\n", n.name, n.pid(), n.exitText(), others, restartDelay)
				if !ctxutil.Sleep(ctx, restartDelay) {
					return nil
				}
				if err := n.start(o); err != nil {
					return err
				}
				if err := n.awaitReady(ctx); err == nil {
					printf("%s is back (pid %d)\n", n.name, n.pid())
				} else if ctx.Err() == nil {
					printf("%s (pid %d): %v\n", n.name, n.pid(), err)
				}
			}
		})
	}
	return all.Wait()
}

// printNodes prints the addresses and logs of the nodes.
func printNodes(out io.Writer, dir string, nodes []*devNode) {
	for _, n := range nodes {
		fmt.Fprintf(out, "node      %s  (%s, pid %d, metrics %s, log %s)\n", n.grpc, n.name, n.pid(), n.metrics, strings.TrimPrefix(n.log, filepath.Dir(dir)+"/"))
	}
	fmt.Fprintln(out)
}
