package loginfo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/supervisor"
)

// The transport of @improbable-eng/grpc-web over WebSocket: the client sends
// its headers as one message of `name: value` lines, then its request behind a
// byte 0, as gRPC frames it, and a byte 1 when it has said all. The server
// answers frames of grpc-web (PROTOCOL-WEB.md of gRPC): headers and trailers
// behind 0x80, messages behind 0x00, each with a length of four bytes.
const (
	subprotocol  = "grpc-websockets"
	maxRequest   = 64 << 10
	requestTime  = 30 * time.Second
	writeTime    = 30 * time.Second
	frameMessage = 0x00
	frameHeader  = 0x80
)

// call is one grpc-web call with one request and a stream of answers.
type call struct {
	conn  *websocket.Conn
	build string
	req   []byte
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
		c := &call{conn: conn, build: r.PathValue("build")}
		err = c.receive(ctx, r.Header, s.Check)
		if err == nil {
			// Reads on, so that the end of the connection ends ctx.
			err = serve(conn.CloseRead(ctx), c)
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
func (c *call) receive(ctx context.Context, header http.Header, check func(build, token string) bool) error {
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
	if !check(c.build, token) {
		return status.Error(codes.Unauthenticated, "the token in the header "+TokenHeader+" is not one for this build")
	}
	_, raw, err = c.conn.Read(ctx)
	switch {
	case err != nil:
		return status.Error(codes.Canceled, "no request came")
	case len(raw) < 6 || raw[0] != 0 || raw[1] != 0 || int(binary.BigEndian.Uint32(raw[2:6])) != len(raw)-6:
		return status.Error(codes.InvalidArgument, "the second message is not a request of grpc-web without compression")
	}
	c.req = raw[6:]
	return c.send(ctx, frameHeader, []byte("content-type: application/grpc-web+proto\r\n"))
}

// send writes one frame.
func (c *call) send(ctx context.Context, kind byte, payload []byte) error {
	frame := make([]byte, 5, 5+len(payload))
	frame[0] = kind
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	if err := c.conn.Write(ctx, websocket.MessageBinary, append(frame, payload...)); err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	return nil
}

func (c *call) message(ctx context.Context, m proto.Message) error {
	raw, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return c.send(ctx, frameMessage, raw)
}

// trailers tell how the call ended.
func (c *call) trailers(ctx context.Context, err error) error {
	st := status.Convert(err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	return c.send(ctx, frameHeader, fmt.Appendf(nil, "grpc-status: %d\r\ngrpc-message: %s\r\n", st.Code(), url.PathEscape(st.Message())))
}

func (s *Server) watchTasks(ctx context.Context, c *call) error {
	var req supervisor.TasksStatusRequest
	if err := proto.Unmarshal(c.req, &req); err != nil {
		return status.Error(codes.InvalidArgument, "the request is no TasksStatusRequest")
	}
	var last *supervisor.TasksStatusResponse
	err := s.Builds.FollowPhase(ctx, c.build, func(b *imagebuilderv1.Build) error {
		if t := task(b); !proto.Equal(t, last) {
			last = t
			if err := c.message(ctx, t); err != nil {
				return err
			}
		}
		if !req.Observe {
			return errFirst
		}
		return nil
	})
	if errors.Is(err, errFirst) {
		return nil
	}
	return err
}

func (s *Server) listenToOutput(ctx context.Context, c *call) error {
	var req supervisor.ListenToOutputRequest
	if err := proto.Unmarshal(c.req, &req); err != nil {
		return status.Error(codes.InvalidArgument, "the request is no ListenToOutputRequest")
	}
	if req.TaskId != TaskID {
		return status.Error(codes.NotFound, "a build has one task, its id is "+TaskID)
	}
	return s.Builds.FollowLog(ctx, c.build, func(content []byte) error {
		return c.message(ctx, &supervisor.ListenToOutputResponse{Data: content})
	})
}
