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

// servers has all servers of a node: gRPC for clients, gRPC for operators on the unix socket, and
// HTTP.
type servers struct {
	grpc       *grpc.Server
	operator   *grpc.Server
	socket     *splitListener // on the unix socket; nil without one
	health     *health.Server
	http       *httpServers
	endStreams context.CancelFunc
	wg         sync.WaitGroup
}

// serve starts all servers on their listeners. A server that ends by itself sends its error to
// failed.
func (n *Node) serve(l listeners, failed chan<- error) (*servers, error) {
	s := &servers{health: health.NewServer(), endStreams: n.endStreams}
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
	s.grpc = n.newGRPCServer(s.health, slices.Concat(opts, n.operatorCalls(n.hasOperatorCert), creds))
	s.operator = n.newGRPCServer(s.health, slices.Concat(opts, n.operatorCalls(func(context.Context) bool { return true })))
	if l.grpc != nil {
		s.start(s.grpc, l.grpc, failed)
	}
	if l.operator != nil {
		s.socket = splitConns(l.operator)
		s.wg.Go(s.socket.run)
		s.start(s.operator, s.socket.grpc, failed)
	}
	s.http = n.serveHTTP(l, s.socket, &s.wg, failed)
	return s, nil
}

func (s *servers) start(g *grpc.Server, l net.Listener, failed chan<- error) {
	s.wg.Go(func() {
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			failed <- fmt.Errorf("serve gRPC on %s: %w", l.Addr(), err)
		}
	})
}

// stop ends all servers and waits for them. It reports to health checks that the node does not
// serve, ends all gRPC streams, and waits up to grace for the other gRPC calls. Then it waits up to
// grace once more for HTTP requests. It cuts off calls and requests that have not ended by then.
func (s *servers) stop(grace time.Duration) {
	s.health.Shutdown()
	s.endStreams() // streams follow builds, and would end only with them
	t := time.AfterFunc(grace, func() { s.grpc.Stop(); s.operator.Stop() })
	s.grpc.GracefulStop()
	s.operator.GracefulStop()
	t.Stop()
	s.http.stop(grace)
	if s.socket != nil {
		s.socket.close()
	}
	s.wg.Wait()
}
