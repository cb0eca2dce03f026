package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Options configure a client.
type Options struct {
	// Servers are the addresses of nodes, host:port or unix:///path. At least one is required; with
	// several the client works while one of them does.
	Servers []string
	// TLS encrypts the connections; plain text if nil.
	TLS *tls.Config
	// Patience is the time for which a call is retried while no server is available; 30 seconds if
	// zero. The context of the call can end it earlier.
	Patience time.Duration
	// Final reports whether an UNAVAILABLE error will not pass soon. A call whose error is final on
	// all servers, one after the other, is not retried. If Final is nil, no error is final.
	Final func(error) bool
	// Waiting, if it is set, is called once for a call that no server has responded to for a second,
	// with the last error, or nil while it connects for the first time. It must not block.
	Waiting func(error)
	// Dial are further options of the gRPC connections.
	Dial []grpc.DialOption
}

// Shortest and longest pause between two rounds of retries.
const (
	pauseMin = 20 * time.Millisecond
	pauseMax = 500 * time.Millisecond
)

// Pool is a gRPC connection to several servers of one cluster. It retries unary calls on the next
// server while the response is UNAVAILABLE. All methods of the service allow this: those that
// create something carry a request id. A stream begins on a server that works and ends with it;
// Client resumes streams. Pool is safe for concurrent use.
type Pool struct {
	conns   []*grpc.ClientConn
	servers []string
	// retryTimeout is Options.Patience.
	retryTimeout time.Duration
	final        func(error) bool // Options.Final
	waiting      func(error)      // Options.Waiting
	at           atomic.Uint32    // number of the current server, modulo the number of servers
	index        atomic.Uint64    // greatest index of all responses

	closed sync.Once
}

var _ grpc.ClientConnInterface = (*Pool)(nil)

// NewPool returns a pool. It does not wait for a connection. The caller closes the pool.
func NewPool(o Options) (*Pool, error) {
	if len(o.Servers) == 0 {
		return nil, errors.New("no server is named")
	}
	p := &Pool{servers: o.Servers, retryTimeout: o.Patience, final: o.Final, waiting: o.Waiting}
	if p.retryTimeout == 0 {
		p.retryTimeout = 30 * time.Second
	}
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	}
	for _, s := range o.Servers {
		conn, err := grpc.NewClient(s, append([]grpc.DialOption{
			grpc.WithTransportCredentials(creds),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
			// Pings detect a server that hangs while calls wait for it.
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		}, o.Dial...)...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%q is not the address of a server: use host:port", s), p.Close())
		}
		p.conns = append(p.conns, conn)
	}
	p.at.Store(rand.Uint32N(uint32(len(p.conns))))
	return p, nil
}

// Close ends the connections. Only the first call has an effect.
func (p *Pool) Close() (err error) {
	p.closed.Do(func() {
		for _, c := range p.conns {
			err = errors.Join(err, c.Close())
		}
	})
	return err
}

// Servers returns the addresses, separated by commas, for messages.
func (p *Pool) Servers() string { return strings.Join(p.servers, ",") }

// Index returns the greatest index of the replicated state that a response showed. Later reads
// through the pool are at least as new.
func (p *Pool) Index() uint64 { return p.index.Load() }

// current returns the connection to the current server, and the number for leave.
func (p *Pool) current() (*grpc.ClientConn, uint32) {
	at := p.at.Load()
	return p.conns[int(at)%len(p.conns)], at
}

// leave makes the next server the current one, unless another call has already done so.
func (p *Pool) leave(at uint32) { p.at.CompareAndSwap(at, at+1) }

// connected reports whether there is a connection to the current server.
func (p *Pool) connected() bool {
	conn, _ := p.current()
	return conn.GetState() == connectivity.Ready
}

// retry calls f with one server after the other until the result is not UNAVAILABLE, is final on
// all servers, the retry timeout has passed, or ctx ends.
func (p *Pool) retry(ctx context.Context, f func(*grpc.ClientConn) error) error {
	pause := pauseMin
	deadline := time.Now().Add(p.retryTimeout)
	final := 0 // number of servers, one after the other, whose error was final
	n := newNotice(p.waiting, p.connected)
	defer n.stop()
	for try := 1; ; try++ {
		conn, at := p.current()
		err := f(conn)
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return err
		}
		n.failed(err)
		p.leave(at)
		if final++; p.final == nil || !p.final(err) {
			final = 0
		} else if final == len(p.conns) {
			return err
		}
		if try%len(p.conns) != 0 {
			continue // no pause before the other servers
		}
		if time.Now().After(deadline) || !wait(ctx, pause/2+rand.N(pause)) {
			return err
		}
		pause = min(2*pause, pauseMax)
	}
}

// Invoke makes one unary call. A call that waits for a phase of a build can take longer than the
// retry timeout and outlast servers. So Invoke gives it up only if no server responds to the same
// call without waiting.
func (p *Pool) Invoke(ctx context.Context, method string, req, res any, opts ...grpc.CallOption) error {
	req = p.stamp(req)
	for {
		err := p.retry(ctx, func(c *grpc.ClientConn) error { return c.Invoke(ctx, method, req, res, opts...) })
		if err == nil {
			p.note(res)
			return nil
		}
		r, ok := req.(*imagebuilderv1.BuildStatusRequest)
		if !ok || r.GetWaitFor() == 0 || status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return err
		}
		now := proto.CloneOf(r)
		now.WaitFor = 0
		if err := p.retry(ctx, func(c *grpc.ClientConn) error {
			return c.Invoke(ctx, method, now, new(imagebuilderv1.BuildStatusResponse), opts...)
		}); err != nil {
			return err
		}
	}
}

// NewStream begins a stream on the current server, or on the next one that works.
func (p *Pool) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (s grpc.ClientStream, err error) {
	err = p.retry(ctx, func(c *grpc.ClientConn) (err error) {
		s, err = c.NewStream(ctx, desc, method, opts...)
		return err
	})
	if err != nil {
		return nil, err
	}
	_, at := p.current()
	return &stream{s, p, at}, nil
}

// stream makes the pool leave the server if the stream breaks.
type stream struct {
	grpc.ClientStream
	p  *Pool
	at uint32
}

// RecvMsg receives a message.
func (s *stream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if status.Code(err) == codes.Unavailable {
		s.p.leave(s.at)
	}
	return err
}

// stamp returns a copy of a read with a min_index that makes its response at least as new as all
// earlier responses. It returns other requests without change.
func (p *Pool) stamp(req any) any {
	switch r := req.(type) {
	case *imagebuilderv1.BuildStatusRequest:
		r = proto.CloneOf(r)
		r.MinIndex = max(r.MinIndex, p.index.Load())
		return r
	case *imagebuilderv1.ListBuildsRequest:
		r = proto.CloneOf(r)
		r.MinIndex = max(r.MinIndex, p.index.Load())
		return r
	}
	return req
}

// note updates the greatest index from a response.
func (p *Pool) note(res any) {
	r, ok := res.(interface {
		GetRead() *imagebuilderv1.ReadInfo
	})
	if !ok {
		return
	}
	for {
		old, now := p.index.Load(), r.GetRead().GetIndex()
		if now <= old || p.index.CompareAndSwap(old, now) {
			return
		}
	}
}

// wait waits for d. It reports false if ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
