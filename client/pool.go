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
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Options configure a client.
type Options struct {
	// Servers are addresses of nodes, host:port or unix:///path; at least one.
	// More than one makes the client survive the loss of any of them.
	Servers []string
	// TLS, if set, encrypts the connections.
	TLS *tls.Config
	// Patience is how long a call goes on trying while no server is available;
	// 30 s if zero. A caller's deadline comes first.
	Patience time.Duration
	// Dial adds options of gRPC's.
	Dial []grpc.DialOption
}

// Pauses between tries.
const (
	pauseMin = 20 * time.Millisecond
	pauseMax = 500 * time.Millisecond
)

// Pool is a gRPC connection to several servers of one cluster. Unary calls are
// tried again on the next server while the answer is UNAVAILABLE, which all
// calls of the service allow: those that create something carry a request id.
// Streams begin on a server that works and end with it: Client resumes them.
type Pool struct {
	conns    []*grpc.ClientConn
	servers  []string
	patience time.Duration
	at       atomic.Uint32
	index    atomic.Uint64 // the greatest index that any answer showed

	closed sync.Once
}

var _ grpc.ClientConnInterface = (*Pool)(nil)

// NewPool answers a pool. It does not wait for the servers.
func NewPool(o Options) (*Pool, error) {
	if len(o.Servers) == 0 {
		return nil, errors.New("no server is named")
	}
	p := &Pool{servers: o.Servers, patience: o.Patience}
	if p.patience == 0 {
		p.patience = 30 * time.Second
	}
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	}
	for _, s := range o.Servers {
		conn, err := grpc.NewClient(s, append([]grpc.DialOption{
			grpc.WithTransportCredentials(creds),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64 << 20)),
			// A server that hangs is found out while calls wait for it.
			grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		}, o.Dial...)...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%q is no address of a server: write host:port", s), p.Close())
		}
		p.conns = append(p.conns, conn)
	}
	p.at.Store(rand.Uint32N(uint32(len(p.conns))))
	return p, nil
}

// Close ends the connections.
func (p *Pool) Close() (err error) {
	p.closed.Do(func() {
		for _, c := range p.conns {
			err = errors.Join(err, c.Close())
		}
	})
	return err
}

// Servers answers the addresses, for messages.
func (p *Pool) Servers() string { return strings.Join(p.servers, ",") }

// Index is the greatest index of the replicated state that an answer showed.
// Reads through this pool are at least as new.
func (p *Pool) Index() uint64 { return p.index.Load() }

func (p *Pool) current() (*grpc.ClientConn, uint32) {
	at := p.at.Load()
	return p.conns[int(at)%len(p.conns)], at
}

// leave makes the next server the current one, unless somebody did it already.
func (p *Pool) leave(at uint32) { p.at.CompareAndSwap(at, at+1) }

// try calls f with one server after the other until it is not UNAVAILABLE, the
// patience is over, or ctx ends.
func (p *Pool) try(ctx context.Context, f func(*grpc.ClientConn) error) error {
	pause := pauseMin
	deadline := time.Now().Add(p.patience)
	for n := 1; ; n++ {
		conn, at := p.current()
		err := f(conn)
		if status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return err
		}
		p.leave(at)
		if n%len(p.conns) != 0 {
			continue // the other servers at once
		}
		if time.Now().After(deadline) || !wait(ctx, pause/2+rand.N(pause)) {
			return err
		}
		pause = min(2*pause, pauseMax)
	}
}

// Invoke makes one unary call. One that waits for a phase of a build may take
// longer than the patience, and outlast servers: so that it is given up only if
// none answers what needs no waiting.
func (p *Pool) Invoke(ctx context.Context, method string, req, res any, opts ...grpc.CallOption) error {
	req = p.stamp(req)
	for {
		err := p.try(ctx, func(c *grpc.ClientConn) error { return c.Invoke(ctx, method, req, res, opts...) })
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
		if err := p.try(ctx, func(c *grpc.ClientConn) error {
			return c.Invoke(ctx, method, now, new(imagebuilderv1.BuildStatusResponse), opts...)
		}); err != nil {
			return err
		}
	}
}

// NewStream begins a stream on the current server, or the next that works.
func (p *Pool) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (s grpc.ClientStream, err error) {
	err = p.try(ctx, func(c *grpc.ClientConn) (err error) {
		s, err = c.NewStream(ctx, desc, method, opts...)
		return err
	})
	if err != nil {
		return nil, err
	}
	_, at := p.current()
	return &stream{s, p, at}, nil
}

// stream makes the pool leave a server whose streams break.
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

// stamp asks for answers that are at least as new as all before.
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
