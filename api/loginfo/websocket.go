package loginfo

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/textproto"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The transport of @improbable-eng/grpc-web over WebSocket: the client sends
// its headers as one message of `name: value` lines, then its request behind a
// byte 0, as gRPC frames it, and a byte 1 when it has said all. The server
// answers frames of grpc-web.
const subprotocol = "grpc-websockets"

// socket is a call over a WebSocket.
type socket struct {
	conn *websocket.Conn
	call
}

// webSocket serves a method. The token may be a header of the HTTP request or,
// as browsers cannot set those, of the call.
func (s *Server) webSocket(serve func(context.Context, *call) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		// Tokens, not cookies, say who calls: any origin may.
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{subprotocol}, InsecureSkipVerify: true})
		if err != nil {
			return // Accept has answered
		}
		defer func() { _ = conn.CloseNow() }()
		conn.SetReadLimit(maxRequest)
		ctx, cancel := s.begin(r.Context())
		defer cancel()
		c := &socket{conn: conn, call: call{build: r.PathValue("build")}}
		c.send = c.write
		err = c.receive(ctx, r.Header, s.buildFor)
		if err == nil {
			live, heard := c.hear(ctx)
			defer func() { _ = conn.CloseNow(); <-heard }()
			err = serve(live, &c.call)
		}
		if s.Streams.Err() != nil {
			err = status.Error(codes.Unavailable, "this node stops, ask another one")
		}
		if c.trailers(ctx, err) == nil {
			_ = conn.Close(websocket.StatusNormalClosure, "")
		}
	}
}

// receive reads headers and request, and answers the call's headers.
func (c *socket) receive(ctx context.Context, header http.Header, buildFor func(named, token string) (string, bool)) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	_, raw, err := c.conn.Read(ctx)
	if err != nil {
		return status.Error(codes.Canceled, "no headers came")
	}
	own, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(raw, '\r', '\n')))).ReadMIMEHeader()
	if err != nil {
		return status.Error(codes.InvalidArgument, "the first message is not headers")
	}
	token := own.Get(TokenHeader)
	if token == "" {
		token = header.Get(TokenHeader)
	}
	var ok bool
	if c.build, ok = buildFor(c.build, token); !ok {
		return status.Error(codes.Unauthenticated, refusal)
	}
	_, raw, err = c.conn.Read(ctx)
	if err != nil {
		return status.Error(codes.Canceled, "no request came")
	}
	if len(raw) == 0 || raw[0] != 0 {
		return status.Error(codes.InvalidArgument, "the second message is not a request")
	}
	if c.req, err = request(raw[1:]); err != nil {
		return err
	}
	return c.frame(ctx, frameHeader, []byte("content-type: "+contentType+"\r\n"))
}

// hear reads on, so that the end of the connection ends the context that it
// answers. What the client says now is that it has said all; it has no meaning
// for a call with one request. The channel is closed once the connection has
// ended.
func (c *socket) hear(ctx context.Context) (context.Context, <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		for {
			if _, _, err := c.conn.Read(context.WithoutCancel(ctx)); err != nil {
				return
			}
		}
	}()
	return ctx, done
}

// write sends one frame. The end of ctx does not break it off: that would close
// the connection before the trailers, which tell why the call ends.
func (c *socket) write(ctx context.Context, frame []byte) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageBinary, frame); err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	return nil
}
