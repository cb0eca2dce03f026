package clustertest

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// window is the greatest number of messages of a stream that the receiver has not read yet.
const window = 16

// NewStream opens a stream of responses to one request, the only kind of stream in the peer API. A
// lost message ends it with an error.
func (c conn) NewStream(ctx context.Context, d *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	if d.ClientStreams {
		return nil, status.Errorf(codes.Unimplemented, "clustertest has no streams of requests: %s", method)
	}
	to, err := c.peer()
	if err != nil {
		return nil, err
	}
	h, err := to.stream(method)
	if err != nil {
		return nil, err
	}
	return &clientStream{ctx: ctx, from: c.from, to: to, handler: h, responses: make(chan []byte, window), ended: make(chan error, 1)}, nil
}

type clientStream struct {
	grpc.ClientStream // nil: its other methods are not called
	ctx               context.Context
	from, to          *Network
	handler           func(grpc.ServerStream) error
	responses         chan []byte
	ended             chan error // receives the result of the handler once
	err               error      // how the stream ended
}

func (s *clientStream) Context() context.Context { return s.ctx }
func (s *clientStream) CloseSend() error         { return nil }

// SendMsg sends the request.
func (s *clientStream) SendMsg(m any) error {
	if err := s.from.hub.pass(s.ctx, s.from.name, s.to.name); err != nil {
		return unavailable(s.ctx, err)
	}
	raw, err := proto.Marshal(m.(proto.Message))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(s.ctx, nil))
	server := &serverStream{ctx: ctx, request: raw, client: s}
	stop := []func() bool{context.AfterFunc(s.to.ctx, cancel), context.AfterFunc(s.from.ctx, cancel)}
	go func() {
		defer cancel()
		err := s.handler(server)
		for _, f := range stop {
			f()
		}
		s.ended <- err
	}()
	return nil
}

// RecvMsg waits for the next response.
func (s *clientStream) RecvMsg(m any) error {
	if s.err != nil {
		return s.err
	}
	var raw []byte
	select {
	case raw = <-s.responses:
	default:
		select {
		case raw = <-s.responses:
		case err := <-s.ended:
			select {
			case raw = <-s.responses:
				s.ended <- err
			default:
				return s.end(err)
			}
		case <-s.ctx.Done():
			return s.end(status.FromContextError(s.ctx.Err()).Err())
		case <-s.to.ctx.Done():
			return s.end(status.Error(codes.Unavailable, "the node went away during the stream"))
		case <-s.from.ctx.Done():
			return s.end(status.Error(codes.Unavailable, "this node went away during the stream"))
		}
	}
	return proto.Unmarshal(raw, m.(proto.Message))
}

func (s *clientStream) end(err error) error {
	s.err = io.EOF
	if err != nil {
		s.err = status.Convert(err).Err()
	}
	return s.err
}

type serverStream struct {
	grpc.ServerStream // nil: its other methods are not called
	ctx               context.Context
	request           []byte
	client            *clientStream
}

func (s *serverStream) Context() context.Context { return s.ctx }

// RecvMsg returns the request.
func (s *serverStream) RecvMsg(m any) error {
	if s.request == nil {
		return io.EOF
	}
	raw := s.request
	s.request = nil
	return proto.Unmarshal(raw, m.(proto.Message))
}

// SendMsg sends one response.
func (s *serverStream) SendMsg(m any) error {
	raw, err := proto.Marshal(m.(proto.Message))
	if err != nil {
		return err
	}
	if err := s.client.to.hub.pass(s.ctx, s.client.to.name, s.client.from.name); err != nil {
		return unavailable(s.ctx, err)
	}
	select {
	case s.client.responses <- raw:
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}
