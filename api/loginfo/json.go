package loginfo

import (
	"encoding/json"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/supervisor"
)

// allowed returns the build that a request may read, or refuses the request.
func (s *Server) allowed(w http.ResponseWriter, r *http.Request) (build string, ok bool) {
	if build, ok = s.buildFor(r.PathValue("build"), r.Header.Get(TokenHeader)); !ok {
		http.Error(w, refusal, http.StatusUnauthorized)
	}
	return build, ok
}

// tasks sends the status of the task of a build.
func (s *Server) tasks(w http.ResponseWriter, r *http.Request) {
	build, ok := s.allowed(w, r)
	if !ok {
		return
	}
	ctx, cancel := s.begin(r.Context())
	defer cancel()
	var res *supervisor.TasksStatusResponse
	err := s.Builds.FollowPhase(ctx, build, func(b *imagebuilderv1.Build) error {
		res = task(b)
		return errFirst
	})
	if res == nil {
		httpError(w, err)
		return
	}
	raw, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(res)
	if err != nil {
		httpError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]json.RawMessage{"result": raw})
}

// listen streams the log of a build.
func (s *Server) listen(w http.ResponseWriter, r *http.Request) {
	build, ok := s.allowed(w, r)
	if !ok {
		return
	}
	if r.PathValue("task") != TaskID {
		http.Error(w, "a build has one task and one terminal, both named "+TaskID, http.StatusNotFound)
		return
	}
	ctx, cancel := s.begin(r.Context())
	defer cancel()
	began := false
	begin := func() {
		if !began {
			began = true
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("X-Accel-Buffering", "no") // proxies must not buffer the stream
			w.WriteHeader(http.StatusOK)
		}
	}
	out := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	err := s.Builds.FollowLog(ctx, build, func(content []byte) error {
		begin()
		var o output
		o.Result.Data = content
		_ = out.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err := enc.Encode(o); err != nil {
			return err
		}
		return out.Flush()
	})
	_ = out.SetWriteDeadline(time.Now().Add(writeTimeout)) // for the end of the response
	switch {
	case err == nil:
		begin()
	case !began:
		httpError(w, err)
	default:
		// Break the connection, so that the client does not mistake this for the end of the log.
		panic(http.ErrAbortHandler)
	}
}

// output is one JSON value of a stream, in the form of grpc-gateway.
type output struct {
	Result struct {
		Data []byte `json:"data"`
	} `json:"result"`
}

// httpError sends an error of the service with the matching HTTP code.
func httpError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch status.Code(err) {
	case codes.NotFound:
		code = http.StatusNotFound
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		code = http.StatusServiceUnavailable
	}
	http.Error(w, status.Convert(err).Message(), code)
}
