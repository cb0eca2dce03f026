package wsmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/supervisor"
)

// ownerToken is the header with the token that gives access to a workspace.
const ownerToken = "X-Gitpod-Owner-Token"

// maxValue limits one JSON value from a supervisor, in bytes. A supervisor runs beside the build of
// a user and is not trusted.
const maxValue = 8 << 20

// access is the address of a supervisor and the token for it.
type access struct{ url, token string }

// supervisorClient returns a copy of c, or of a default client, that follows no redirects.
func supervisorClient(c *http.Client) *http.Client {
	if c == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = 30 * time.Second
		c = &http.Client{Transport: t}
	}
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// httpError is a response with a status other than 200.
type httpError struct {
	path string
	code int
}

func (e *httpError) Error() string {
	return fmt.Sprintf("the supervisor of the build workspace answered %s with %d %s", e.path, e.code, http.StatusText(e.code))
}

func isNotFound(err error) bool {
	var e *httpError
	return errors.As(err, &e) && e.code == http.StatusNotFound
}

// get sends a request to a supervisor and returns the body of its response, which the caller
// closes.
func (r *Runtime) get(ctx context.Context, a access, path string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(a.url, "/")+"/_supervisor/v1/"+path, nil)
	if err != nil {
		return nil, errors.New("the address of the build workspace is not a URL")
	}
	req.Header.Set(ownerToken, a.token)
	res, err := r.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the URL is long and may hold a token
		}
		return nil, fmt.Errorf("send a request to the supervisor of the build workspace: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close()
		return nil, &httpError{path, res.StatusCode}
	}
	return res.Body, nil
}

// task returns the task of the build. It returns errNoLogYet if the task has no terminal.
func (r *Runtime) task(ctx context.Context, a access) (*supervisor.TaskStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.CallTimeout)
	defer cancel()
	body, err := r.get(ctx, a, "status/tasks")
	if isNotFound(err) {
		return nil, errNoLogYet
	}
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var res supervisor.TasksStatusResponse
	if err := newValues(body).next(&res); err != nil {
		return nil, fmt.Errorf("read the tasks of the build workspace: %w", err)
	}
	if len(res.Tasks) == 0 || res.Tasks[0].GetTerminal() == "" && res.Tasks[0].GetState() != supervisor.TaskState_closed {
		return nil, errNoLogYet
	}
	return res.Tasks[0], nil
}

// listen opens the output of a task: the output of its terminal, or if that is gone, the output
// that the supervisor kept.
func (r *Runtime) listen(ctx context.Context, a access, t *supervisor.TaskStatus) (*values, error) {
	body, err := io.ReadCloser(nil), error(&httpError{"terminal", http.StatusNotFound})
	if t.GetTerminal() != "" {
		body, err = r.get(ctx, a, "terminal/listen/"+url.PathEscape(t.GetTerminal()))
	}
	if isNotFound(err) && t.GetId() != "" {
		body, err = r.get(ctx, a, "task/listen/"+url.PathEscape(t.GetId())+"/output")
	}
	if err != nil {
		return nil, err
	}
	return newValues(body), nil
}

// values reads JSON values of the form {"result": message}.
type values struct {
	body io.ReadCloser
	lim  *io.LimitedReader
	dec  *json.Decoder
}

func newValues(body io.ReadCloser) *values {
	lim := &io.LimitedReader{R: body, N: maxValue}
	return &values{body: body, lim: lim, dec: json.NewDecoder(lim)}
}

// next reads one value. It returns io.EOF if the supervisor ended the stream.
func (v *values) next(m proto.Message) error {
	var value struct {
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
	}
	v.lim.N = maxValue
	if err := v.dec.Decode(&value); err != nil {
		if v.lim.N <= 0 {
			return fmt.Errorf("a value is longer than %d bytes", maxValue)
		}
		return err
	}
	if len(value.Error) > 0 && string(value.Error) != "null" {
		return errors.New("the supervisor of the build workspace reported an error")
	}
	if len(value.Result) == 0 || string(value.Result) == "null" {
		return nil
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(value.Result, m)
}

func (v *values) close() { _ = v.body.Close() }
