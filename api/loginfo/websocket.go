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

// subprotocol is the transport of @improbable-eng/grpc-web over WebSocket. The client sends its
// headers as one message of `name: value` lines. Then it sends its request as a message that
// consists of the byte 0 and a gRPC frame, and marks the end of its requests with a message that
// consists of the byte 1. The server sends frames of grpc-web.
const subprotocol = "grpc-websockets"

// socket is a call over a WebSocket.
type socket struct {
	conn *websocket.Conn
	call
}

// webSocket returns the handler of a method over WebSocket. The token is a header of the call or of
// the HTTP request. Browsers cannot set the latter.
func (s *Server) webSocket(serve func(context.Context, *call) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		// Any origin is allowed, because tokens identify callers, not cookies.
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{subprotocol}, InsecureSkipVerify: true})
		if err != nil {
			return // Accept has sent the response
		}
		defer func() { _ = conn.CloseNow() }()
		conn.SetReadLimit(maxRequest)
		ctx, cancel := s.begin(r.Context())
		defer cancel()
		c := &socket{conn: conn, call: call{build: r.PathValue("build")}}
		c.send = c.write
		err = c.receive(ctx, r.Header, s.buildFor)
		if err == nil {
			live, ended := c.watchConn(ctx)
			defer func() { _ = conn.CloseNow(); <-ended }()
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

// receive reads the headers and the request of a call, checks the token, and sends the headers of
// the response.
func (c *socket) receive(ctx context.Context, header http.Header, buildFor func(named, token string) (string, bool)) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
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

// watchConn returns a context that ends when the connection ends, and a channel that is closed
// then. It reads and ignores further messages of the client: a call has one request, so the mark
// for the end of the requests has no effect.
func (c *socket) watchConn(ctx context.Context) (context.Context, <-chan struct{}) {
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

// write sends one frame. It ignores the end of ctx, which would close the connection before the
// trailers with the status of the call are sent.
func (c *socket) write(ctx context.Context, frame []byte) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageBinary, frame); err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	return nil
}
