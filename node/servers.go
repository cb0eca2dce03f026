package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
)

// serving is what listens.
type servers struct {
	node     *Node
	grpc     *grpc.Server
	operator *grpc.Server
	socket   *splitListener // of operators; nil without one
	health   *health.Server
	http     *httpServers
	wg       sync.WaitGroup
	end      context.CancelFunc
}

// serve starts all servers. One that ends by itself is reported on failed.
func (n *Node) serve(l listeners, failed chan<- error) (*servers, error) {
	v := &servers{node: n, health: health.NewServer(), end: n.endStreams}
	opts, err := n.grpcOptions(n.streams)
	if err != nil {
		return nil, err
	}
	creds, err := serverCredentials(n.cfg, n.log)
	if err != nil {
		return nil, err
	}
	if l.http, err = n.httpTLS(l.http); err != nil {
		return nil, err
	}
	if l.pprof, err = n.pprofTLS(l.pprof); err != nil {
		return nil, err
	}
	v.grpc = v.newServer(slices.Concat(opts, n.operatorCalls(n.hasOperatorCert), creds))
	v.operator = v.newServer(slices.Concat(opts, n.operatorCalls(func(context.Context) bool { return true })))
	if l.grpc != nil {
		v.start(v.grpc, l.grpc, failed)
	}
	if l.operator != nil {
		v.socket = splitConns(l.operator)
		v.wg.Go(v.socket.run)
		v.start(v.operator, v.socket.grpc, failed)
	}
	v.http = n.serveHTTP(l, v.socket, &v.wg, failed)
	return v, nil
}

func (v *servers) start(g *grpc.Server, l net.Listener, failed chan<- error) {
	v.wg.Go(func() {
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			failed <- fmt.Errorf("serve gRPC on %s: %w", l.Addr(), err)
		}
	})
}

// stop tells clients to go elsewhere, lets calls end, and cuts off what does
// not end within grace.
func (v *servers) stop(grace time.Duration) {
	v.health.Shutdown()
	v.end() // streams wait for builds: they end now
	t := time.AfterFunc(grace, func() { v.grpc.Stop(); v.operator.Stop() })
	v.grpc.GracefulStop()
	v.operator.GracefulStop()
	t.Stop()
	v.http.stop(grace)
	if v.socket != nil {
		v.socket.close()
	}
	v.wg.Wait()
}
