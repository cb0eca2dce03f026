package loginfo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/supervisor"
)

// Frames of grpc-web (PROTOCOL-WEB.md of gRPC). A frame is a byte for its kind, four bytes for the
// length of its content, and the content.
const (
	maxRequest   = 64 << 10 // bytes
	frameMessage = 0x00
	frameHeader  = 0x80 // headers or trailers
	contentType  = "application/grpc-web+proto"
)

// call is one grpc-web call with one request and a stream of responses. send sends one frame over
// the transport.
type call struct {
	build string
	req   []byte
	send  func(ctx context.Context, frame []byte) error
}

// request returns the message of a request, which is a single frame.
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

// message sends one message.
func (c *call) message(ctx context.Context, m proto.Message) error {
	raw, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return c.frame(ctx, frameMessage, raw)
}

// trailers sends the trailers, which carry the status of the call.
func (c *call) trailers(ctx context.Context, err error) error {
	st := status.Convert(err)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return c.frame(ctx, frameHeader, fmt.Appendf(nil, "grpc-status: %d\r\ngrpc-message: %s\r\n", st.Code(), url.PathEscape(st.Message())))
}

// watchTasks serves StatusService.TasksStatus.
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

// listenToOutput serves TaskService.ListenToOutput.
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
