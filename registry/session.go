package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// session is an authenticated client of one repository. To make one costs a ping and a token. So
// sessions are cached and shared among calls with the same credential. go-containerregistry's
// Puller and Pusher are not reused: a Pusher remembers what it pushed, and would not notice a
// deletion.
type session struct {
	target
	base   url.URL
	client *http.Client
	// renew is when the session must be replaced because its token is about to expire; zero for
	// never.
	renew time.Time
}

// usable reports whether the session may still be used. It is false from renew on.
func (s *session) usable() bool { return s.renew.IsZero() || time.Now().Before(s.renew) }

// request makes a request with a path below the repository, as in manifests/latest.
func (s *session) request(ctx context.Context, method, path string, query url.Values, body io.Reader) (*http.Request, error) {
	u := s.base
	u.Path += path
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, &kindError{kind: Invalid, text: "the reference does not make a valid URL"}
	}
	return req, nil
}

// do sends a request. If the status of the response is in want, it returns the response, whose body
// the caller closes. Any other status is an error.
func (s *session) do(req *http.Request, want ...int) (*http.Response, error) {
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	for _, w := range want {
		if resp.StatusCode == w {
			return resp, nil
		}
	}
	defer discard(resp)
	err = transport.CheckError(resp, want...)
	var known *transport.Error
	if !errors.As(err, &known) {
		return nil, &statusError{code: resp.StatusCode}
	}
	return nil, err
}
