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
	// pulse is how often a silent stream says that it lives.
	pulse = 2 * time.Second
	// writeTime is how long a browser may take no byte.
	writeTime = 30 * time.Second
)

// lines writes the messages of one stream. It is the server's side of a
// stream of the API.
type lines[T any, M interface {
	*T
	proto.Message
}] struct {
	grpc.ServerStream // nothing of it but Context is asked for
	ctx               context.Context
	w                 http.ResponseWriter
	out               *http.ResponseController

	mu sync.Mutex
}

func (l *lines[T, M]) Context() context.Context { return l.ctx }

// Send writes one message and returns once it is on its way.
func (l *lines[T, M]) Send(m *T) error {
	raw, err := protojson.Marshal(M(m))
	if err != nil {
		return status.Errorf(codes.Internal, "render a message: %v", err)
	}
	return l.line(map[string]any{"result": json.RawMessage(raw)})
}

func (l *lines[T, M]) line(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.out.SetWriteDeadline(time.Now().Add(writeTime))
	if _, err := l.w.Write(append(raw, '\n')); err != nil {
		return err
	}
	return l.out.Flush()
}

// begin counts a stream and bounds it by the life of the service. It answers
// an error where the node has too many.
func (s *server) begin(r *http.Request) (context.Context, func(), error) {
	select {
	case s.streams <- struct{}{}:
	default:
		return nil, nil, status.Errorf(codes.Unavailable, "node %s serves %d streams to browsers, and no more", s.Node, maxStreams)
	}
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(s.Streams, cancel)
	return ctx, func() { stop(); cancel(); <-s.streams }, nil
}

// serve runs a call of the API and writes what it sends, one object a line.
func serve[T any, M interface {
	*T
	proto.Message
}](s *server, w http.ResponseWriter, r *http.Request, call func(grpc.ServerStreamingServer[T]) error) {
	ctx, done, err := s.begin(r)
	if err != nil {
		answer(w, nil, err)
		return
	}
	defer done()
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // proxies pass it on at once
	l := &lines[T, M]{ctx: ctx, w: w, out: http.NewResponseController(w)}
	var beat sync.WaitGroup
	stop := make(chan struct{})
	beat.Go(func() {
		t := time.NewTicker(pulse)
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
	// Also where the call panics: the goroutine writes to what is gone then.
	defer beat.Wait()
	defer close(stop)
	if l.line(struct{}{}) != nil { // headers are on their way before anything happens
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

// logRequest reads which part of a log is wanted; attempt 0 is refused, since
// only within an attempt can a stream be resumed.
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

func (s *server) logs(w http.ResponseWriter, r *http.Request) {
	req, err := logRequest(r)
	if err != nil {
		answer(w, nil, err)
		return
	}
	req.Follow = true
	serve[imagebuilderv1.BuildLogsResponse](s, w, r, func(stream grpc.ServerStreamingServer[imagebuilderv1.BuildLogsResponse]) error {
		return s.API.BuildLogs(req, stream)
	})
}

// plain are the characters of ids: what else stands in a path is no file name.
var plain = regexp.MustCompile(`^[0-9A-Za-z-]+$`)

// logFile answers what there is of a log as a file.
func (s *server) logFile(w http.ResponseWriter, r *http.Request) {
	req, err := logRequest(r)
	if err == nil && !plain.MatchString(r.PathValue("id")) {
		err = status.Errorf(codes.NotFound, "there is no build %q", r.PathValue("id"))
	}
	if err != nil {
		answer(w, nil, err)
		return
	}
	ctx, done, err := s.begin(r)
	if err != nil {
		answer(w, nil, err)
		return
	}
	defer done()
	f := &rawLog{ctx: ctx, w: w, out: http.NewResponseController(w), name: fmt.Sprintf("%s-%d.log", r.PathValue("id"), req.Attempt)}
	err = s.API.BuildLogs(req, f)
	switch {
	case err == nil:
		f.begin()
	case !f.began:
		answer(w, nil, err)
	default:
		panic(http.ErrAbortHandler) // nobody must take a part for the whole
	}
}

// rawLog writes the bytes of a log and leaves markers away.
type rawLog struct {
	grpc.ServerStream
	ctx   context.Context
	w     http.ResponseWriter
	out   *http.ResponseController
	name  string
	began bool
}

func (f *rawLog) Context() context.Context { return f.ctx }

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

func (f *rawLog) Send(m *imagebuilderv1.BuildLogsResponse) error {
	f.begin()
	if m.GetMarker() {
		return nil
	}
	_ = f.out.SetWriteDeadline(time.Now().Add(writeTime))
	_, err := f.w.Write(m.GetContent())
	return err
}
