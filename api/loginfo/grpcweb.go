package loginfo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/supervisor"
)

// Frames of grpc-web (PROTOCOL-WEB.md of gRPC): headers and trailers behind
// 0x80, messages behind 0x00, each with a length of four bytes.
const (
	maxRequest   = 64 << 10
	requestTime  = 30 * time.Second
	writeTime    = 30 * time.Second
	frameMessage = 0x00
	frameHeader  = 0x80
	contentType  = "application/grpc-web+proto"
)

// call is one grpc-web call with one request and a stream of answers.
type call struct {
	build string
	req   []byte
	send  func(ctx context.Context, frame []byte) error
}

// method serves a call over whichever transport it comes.
func (s *Server) method(serve func(context.Context, *call) error) http.HandlerFunc {
	socket, plain := s.webSocket(serve), s.post(serve)
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			plain(w, r)
		} else {
			socket(w, r)
		}
	}
}

// post serves a method as one HTTP request, whose headers are those of the
// call and whose body is the request.
func (s *Server) post(serve func(context.Context, *call) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if t, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); t != contentType && t != "application/grpc-web" {
			http.Error(w, "the content type must be "+contentType, http.StatusUnsupportedMediaType)
			return
		}
		ctx, cancel := s.begin(r.Context())
		defer cancel()
		out := http.NewResponseController(w)
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("X-Accel-Buffering", "no") // proxies pass it on at once
		c := &call{build: r.PathValue("build"), send: func(_ context.Context, frame []byte) error {
			_ = out.SetWriteDeadline(time.Now().Add(writeTime))
			if _, err := w.Write(frame); err != nil {
				return fmt.Errorf("write to the client: %w", err)
			}
			return out.Flush()
		}}
		err := s.accept(c, r, out)
		if err == nil {
			err = serve(ctx, c)
		}
		if s.Streams.Err() != nil {
			err = status.Error(codes.Unavailable, "this node stops, ask another one")
		}
		_ = c.trailers(ctx, err)
	}
}

// accept checks the token and reads the request.
func (s *Server) accept(c *call, r *http.Request, out *http.ResponseController) error {
	var ok bool
	if c.build, ok = s.buildFor(c.build, r.Header.Get(TokenHeader)); !ok {
		return status.Error(codes.Unauthenticated, refusal)
	}
	_ = out.SetReadDeadline(time.Now().Add(requestTime))
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		return status.Error(codes.Canceled, "no request came")
	}
	_ = out.SetReadDeadline(time.Time{}) // the end of the connection is noticed by reading on
	c.req, err = request(raw)
	return err
}

// request takes the message out of the one frame of a request.
func request(raw []byte) ([]byte, error) {
	if len(raw) < 5 || raw[0] != 0 || int(binary.BigEndian.Uint32(raw[1:5])) != len(raw)-5 {
		return nil, status.Error(codes.InvalidArgument, "the request is not one message of grpc-web without compression")
	}
	return raw[5:], nil
}

// frame sends one frame.
func (c *call) frame(ctx context.Context, kind byte, payload []byte) error {
	frame := make([]byte, 5, 5+len(payload))
	frame[0] = kind
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	return c.send(ctx, append(frame, payload...))
}

func (c *call) message(ctx context.Context, m proto.Message) error {
	raw, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return c.frame(ctx, frameMessage, raw)
}

// trailers tell how the call ended.
func (c *call) trailers(ctx context.Context, err error) error {
	st := status.Convert(err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTime)
	defer cancel()
	return c.frame(ctx, frameHeader, fmt.Appendf(nil, "grpc-status: %d\r\ngrpc-message: %s\r\n", st.Code(), url.PathEscape(st.Message())))
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
