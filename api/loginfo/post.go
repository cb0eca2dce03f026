package loginfo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// post returns the handler of a method as one HTTP request. The headers of the HTTP request are
// those of the call, and its body is the request of the call.
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
		w.Header().Set("X-Accel-Buffering", "no") // proxies must not buffer the stream
		c := &call{build: r.PathValue("build"), send: func(_ context.Context, frame []byte) error {
			_ = out.SetWriteDeadline(time.Now().Add(writeTimeout))
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

// accept checks the token of a call and reads its request.
func (s *Server) accept(c *call, r *http.Request, out *http.ResponseController) error {
	var ok bool
	if c.build, ok = s.buildFor(c.build, r.Header.Get(TokenHeader)); !ok {
		return status.Error(codes.Unauthenticated, refusal)
	}
	_ = out.SetReadDeadline(time.Now().Add(requestTimeout))
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		return status.Error(codes.Canceled, "no request came")
	}
	_ = out.SetReadDeadline(time.Time{}) // the server continues to read, to notice the end of the connection
	c.req, err = request(raw)
	return err
}
