package web

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// apiError is an error in a response to the page.
type apiError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// codeNames are the names of the codes that the service returns, as in the gRPC specification.
var codeNames = map[codes.Code]string{
	codes.Canceled: "CANCELLED", codes.InvalidArgument: "INVALID_ARGUMENT", codes.DeadlineExceeded: "DEADLINE_EXCEEDED",
	codes.NotFound: "NOT_FOUND", codes.PermissionDenied: "PERMISSION_DENIED", codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
	codes.FailedPrecondition: "FAILED_PRECONDITION", codes.OutOfRange: "OUT_OF_RANGE", codes.Unimplemented: "UNIMPLEMENTED",
	codes.Internal: "INTERNAL", codes.Unavailable: "UNAVAILABLE", codes.Unauthenticated: "UNAUTHENTICATED", codes.Aborted: "ABORTED",
}

// httpCodes are the HTTP status codes of gRPC codes; 500 for all others.
var httpCodes = map[codes.Code]int{
	codes.InvalidArgument: http.StatusBadRequest, codes.OutOfRange: http.StatusBadRequest, codes.FailedPrecondition: http.StatusBadRequest,
	codes.NotFound: http.StatusNotFound, codes.PermissionDenied: http.StatusForbidden, codes.Unauthenticated: http.StatusUnauthorized,
	codes.ResourceExhausted: http.StatusTooManyRequests, codes.Unimplemented: http.StatusNotImplemented,
	codes.Unavailable: http.StatusServiceUnavailable, codes.Canceled: http.StatusServiceUnavailable, codes.DeadlineExceeded: http.StatusGatewayTimeout,
}

// asError converts an error of the API to an error of the page and an HTTP status code.
func asError(err error) (apiError, int) {
	st := status.Convert(err)
	name, ok := codeNames[st.Code()]
	if !ok {
		name = "UNKNOWN"
	}
	code, ok := httpCodes[st.Code()]
	if !ok {
		code = http.StatusInternalServerError
	}
	return apiError{name, st.Message()}, code
}

// respond sends a message, or an error if err is not nil.
func respond(w http.ResponseWriter, m proto.Message, err error) {
	if err == nil {
		var raw []byte
		if raw, err = protojson.Marshal(m); err == nil {
			sendJSON(w, http.StatusOK, json.RawMessage(raw))
			return
		}
	}
	e, code := asError(err)
	sendJSON(w, code, e)
}

// sendJSON sends a response that is not cached.
func sendJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func (s *server) config(w http.ResponseWriter, _ *http.Request) {
	sendJSON(w, http.StatusOK, map[string]any{"node": s.Node, "nodes": append([]string{}, s.Nodes...)})
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	req := &imagebuilderv1.ListBuildsRequest{PageToken: q.Get("token"), Filter: &imagebuilderv1.BuildFilter{
		Requester: q.Get("requester"), Ref: q.Get("ref"),
	}}
	for _, name := range q["phase"] {
		p, ok := imagebuilderv1.Phase_value[name]
		if !ok {
			respond(w, nil, status.Errorf(codes.InvalidArgument, "there is no phase %q", name))
			return
		}
		req.Filter.Phases = append(req.Filter.Phases, imagebuilderv1.Phase(p))
	}
	size, err := number(q, "size")
	if err == nil {
		req.PageSize = int32(min(size, 1<<30))
		var res *imagebuilderv1.ListBuildsResponse
		res, err = s.fill(r.Context(), req)
		respond(w, res, err)
		return
	}
	respond(w, nil, err)
}

const (
	// defaultSize is the number of builds in one response if the request of the page has no size.
	defaultSize = 100
	// maxLists is how many lists the server reads for one response. One list reads a limited number
	// of builds, of which few may match the filter.
	maxLists = 10
)

// fill reads lists until one response is full.
func (s *server) fill(ctx context.Context, req *imagebuilderv1.ListBuildsRequest) (*imagebuilderv1.ListBuildsResponse, error) {
	size := int(req.PageSize)
	if size == 0 {
		size = defaultSize
	}
	res, err := s.API.ListBuilds(ctx, req)
	for n := 1; err == nil && res.NextPageToken != "" && len(res.Builds) < size && n < maxLists; n++ {
		former := res.Builds
		req.PageToken, req.PageSize = res.NextPageToken, int32(size-len(former))
		if res, err = s.API.ListBuilds(ctx, req); err == nil {
			res.Builds = append(former, res.Builds...)
		}
	}
	return res, err
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	res, err := s.API.BuildStatus(r.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: r.PathValue("id")}})
	respond(w, res, err)
}

func (s *server) nodes(w http.ResponseWriter, r *http.Request) {
	res, err := s.API.ListNodes(r.Context(), &imagebuilderv1.ListNodesRequest{})
	respond(w, res, err)
}

func (s *server) cache(w http.ResponseWriter, r *http.Request) {
	res, err := s.API.ListCachedRefs(r.Context(), &imagebuilderv1.ListCachedRefsRequest{})
	respond(w, res, err)
}

// number returns the value of a parameter that is a number; 0 if it is missing.
func number(q url.Values, key string) (int64, error) {
	if q.Get(key) == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(q.Get(key), 10, 64)
	if err != nil || n < 0 {
		return 0, status.Errorf(codes.InvalidArgument, "%s is %q, not a number", key, q.Get(key))
	}
	return n, nil
}
