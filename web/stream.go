package web

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	// heartbeatInterval is the time between two heartbeats of a stream.
	heartbeatInterval = 2 * time.Second
	// writeTimeout limits the time for which a browser may accept no byte.
	writeTimeout = 30 * time.Second
)

// lines writes the messages of one stream, one JSON object per line. It is the server side of a
// stream of the API.
type lines[T any, M interface {
	*T
	proto.Message
}] struct {
	grpc.ServerStream // nil: the API calls only Context and Send
	ctx               context.Context
	w                 http.ResponseWriter
	out               *http.ResponseController

	mu sync.Mutex
}

// Context returns the context of the stream.
func (l *lines[T, M]) Context() context.Context { return l.ctx }

// Send writes one message and flushes it.
func (l *lines[T, M]) Send(m *T) error {
	raw, err := protojson.Marshal(M(m))
	if err != nil {
		return status.Errorf(codes.Internal, "render a message: %v", err)
	}
	return l.line(map[string]any{"result": json.RawMessage(raw)})
}

// line writes one line and flushes it. It is safe for concurrent use.
func (l *lines[T, M]) line(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.out.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := l.w.Write(append(raw, '\n')); err != nil {
		return err
	}
	return l.out.Flush()
}

// begin adds a stream to the count of open streams. The returned context ends with the request or
// with Options.Streams; the returned function removes the stream. It returns an error if the node
// has maxStreams streams.
func (s *server) begin(r *http.Request) (context.Context, func(), error) {
	select {
	case s.streams <- struct{}{}:
	default:
		return nil, nil, status.Errorf(codes.Unavailable, "node %s already serves %d streams to browsers, its limit", s.Node, maxStreams)
	}
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(s.Streams, cancel)
	return ctx, func() { stop(); cancel(); <-s.streams }, nil
}

// serve runs a streaming call of the API and writes its messages, heartbeats and result as lines.
func serve[T any, M interface {
	*T
	proto.Message
}](s *server, w http.ResponseWriter, r *http.Request, call func(grpc.ServerStreamingServer[T]) error) {
	ctx, done, err := s.begin(r)
	if err != nil {
		respond(w, nil, err)
		return
	}
	defer done()
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // proxies must not buffer the stream
	l := &lines[T, M]{ctx: ctx, w: w, out: http.NewResponseController(w)}
	var heartbeat sync.WaitGroup
	stop := make(chan struct{})
	heartbeat.Go(func() {
		t := time.NewTicker(heartbeatInterval)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
				if l.line(struct{}{}) != nil {
					return
				}
			}
		}
	})
	// Deferred because the call can panic: the goroutine must not use the response afterwards.
	defer heartbeat.Wait()
	defer close(stop)
	if l.line(struct{}{}) != nil { // sends the headers before the first message
		return
	}
	err = call(l)
	switch {
	case err == nil:
		_ = l.line(map[string]bool{"end": true})
	case s.Streams.Err() != nil:
		_ = l.line(map[string]any{"error": apiError{"UNAVAILABLE", "node " + s.Node + " shuts down"}})
	default:
		e, _ := asError(err)
		_ = l.line(map[string]any{"error": e})
	}
}

// logRequest returns the request for the part of a log that the parameters select. It refuses
// attempt 0, because a stream can be resumed only within an attempt.
func logRequest(r *http.Request) (*imagebuilderv1.BuildLogsRequest, error) {
	q := r.URL.Query()
	attempt, err := number(q, "attempt")
	if err != nil {
		return nil, err
	}
	offset, err := number(q, "offset")
	if err != nil {
		return nil, err
	}
	if attempt < 1 || attempt > math.MaxUint32 {
		return nil, status.Error(codes.InvalidArgument, "attempt must be the number of an attempt, from 1")
	}
	return &imagebuilderv1.BuildLogsRequest{
		Build: &imagebuilderv1.BuildLogsRequest_Id{Id: r.PathValue("id")}, Attempt: uint32(attempt), Offset: offset,
	}, nil
}

// logs streams the log of an attempt.
func (s *server) logs(w http.ResponseWriter, r *http.Request) {
	req, err := logRequest(r)
	if err != nil {
		respond(w, nil, err)
		return
	}
	req.Follow = true
	serve[imagebuilderv1.BuildLogsResponse](s, w, r, func(stream grpc.ServerStreamingServer[imagebuilderv1.BuildLogsResponse]) error {
		return s.API.BuildLogs(req, stream)
	})
}

// validID matches ids of builds. Other texts must not get into the name of a file.
var validID = regexp.MustCompile(`^[0-9A-Za-z-]+$`)

// logFile sends the available part of a log as a file.
func (s *server) logFile(w http.ResponseWriter, r *http.Request) {
	req, err := logRequest(r)
	if err == nil && !validID.MatchString(r.PathValue("id")) {
		err = status.Errorf(codes.NotFound, "there is no build %q", r.PathValue("id"))
	}
	if err != nil {
		respond(w, nil, err)
		return
	}
	ctx, done, err := s.begin(r)
	if err != nil {
		respond(w, nil, err)
		return
	}
	defer done()
	f := &rawLog{ctx: ctx, w: w, out: http.NewResponseController(w), name: fmt.Sprintf("%s-%d.log", r.PathValue("id"), req.Attempt)}
	err = s.API.BuildLogs(req, f)
	switch {
	case err == nil:
		f.begin()
	case !f.began:
		respond(w, nil, err)
	default:
		panic(http.ErrAbortHandler) // aborts the response, so that the browser reports an incomplete file
	}
}

// rawLog writes the bytes of a log without markers. It is the server side of a stream of the API.
type rawLog struct {
	grpc.ServerStream
	ctx   context.Context
	w     http.ResponseWriter
	out   *http.ResponseController
	name  string
	began bool
}

// Context returns the context of the call.
func (f *rawLog) Context() context.Context { return f.ctx }

// begin sets the headers of the file, once.
func (f *rawLog) begin() {
	if f.began {
		return
	}
	f.began = true
	h := f.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="`+f.name+`"`)
	h.Set("Cache-Control", "no-store")
}

// Send writes the bytes of one message.
func (f *rawLog) Send(m *imagebuilderv1.BuildLogsResponse) error {
	f.begin()
	if m.GetMarker() {
		return nil
	}
	_ = f.out.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := f.w.Write(m.GetContent())
	return err
}
