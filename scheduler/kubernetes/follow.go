package kubernetes

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

const (
	dialTimeout = 5 * time.Second
	ackBytes    = 1 << 20
	ackInterval = 100 * time.Millisecond
	ackAge      = time.Second
	ackTries    = 3
)

// stream follows one worker over HTTPS, across broken connections.
type stream struct {
	r      *Runtime
	base   url.URL
	token  string
	client *http.Client
	sink   workload.Sink
	cancel context.CancelFunc
	done   chan struct{}

	lastResponseAt atomic.Int64 // time of the last response, in Unix nanoseconds

	mu        sync.Mutex
	res       *podapi.Result
	allStored bool // all output is stored
	err       error
}

// openStream starts to follow a running worker. The caller closes the stream.
func (r *Runtime) openStream(ctx context.Context, pod *corev1.Pod, job *podapi.Job, sink workload.Sink) (*stream, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(job.Certificate)) {
		return nil, infra("the Secret of the pod %s holds no certificate: somebody changed it", pod.Name)
	}
	dial := r.opts.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{
		r: r, token: job.Token, sink: sink, cancel: cancel, done: make(chan struct{}),
		base: url.URL{Scheme: "https", Host: net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(workerPort))},
		client: &http.Client{Transport: &http.Transport{
			DialContext:           dial,
			TLSClientConfig:       &tls.Config{RootCAs: roots, ServerName: workerName, MinVersion: tls.VersionTLS13},
			TLSHandshakeTimeout:   dialTimeout,
			ResponseHeaderTimeout: (podapi.StateWait + 10) * time.Second,
		}},
	}
	s.lastResponseAt.Store(time.Now().UnixNano())
	go func() {
		defer close(s.done)
		s.run(ctx)
		s.client.CloseIdleConnections()
	}()
	return s, nil
}

// close ends the stream and waits for its goroutine.
func (s *stream) close() {
	s.cancel()
	<-s.done
}

func (s *stream) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// result returns the result that the worker reported, or nil if there is none yet. The error is an
// error of storing output.
func (s *stream) result() (*podapi.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.res, s.err
}

// complete reports whether all output is stored.
func (s *stream) complete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.allStored
}

// silence returns the time since the last response of the worker, or 0 once the result and all
// output are here.
func (s *stream) silence() time.Duration {
	s.mu.Lock()
	finished := s.res != nil && s.allStored
	s.mu.Unlock()
	if finished {
		return 0
	}
	return time.Since(time.Unix(0, s.lastResponseAt.Load()))
}

func (s *stream) run(ctx context.Context) {
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error { return s.repeat(both, s.output) })
	g.Go(func() error {
		var version uint64
		return s.repeat(both, func(ctx context.Context) (bool, error) { return s.state(ctx, &version) })
	})
	var acks sync.WaitGroup
	acks.Go(func() { s.ackHeld(both) })
	err := g.Wait() // ends both
	acks.Wait()
	if err != nil {
		var fatal *fatalError
		if errors.As(err, &fatal) { // otherwise ctx has ended
			s.mu.Lock()
			s.err = fatal.error
			s.mu.Unlock()
		}
		return
	}
	// The final acknowledgement lets the worker end, and its output is then lost. Flush first.
	if err := workload.Flush(ctx, s.sink, s.r.opts.CopiesTimeout); err != nil {
		if ctx.Err() == nil {
			s.noCopies(err)
			s.r.opts.Log.Warn("cannot store the output of a build durably; its worker keeps the output and waits", "err", err)
		}
		return
	}
	for try := range ackTries {
		if err := s.ack(ctx, s.sink.Offset(), true); err == nil {
			return
		}
		if s.r.pause(ctx, try) != nil {
			return
		}
	}
}

// noCopies ends a workload that succeeded with an error if the copies of its log make no progress. The
// end of a workload that failed stays; its log ends where the copies have it.
func (s *stream) noCopies(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, workload.ErrCopiesAway) && s.res.Digest != "" {
		s.err = &workload.Failure{Blame: builds.BlameInfrastructure, Message: "write the log: " + err.Error(), Err: err}
	}
}

// fatalError ends the stream: a retry would not help.
type fatalError struct{ error }

func (e *fatalError) Unwrap() error { return e.error }

// repeat calls op until it is done, and retries all errors except a *fatalError.
func (s *stream) repeat(ctx context.Context, op func(context.Context) (done bool, err error)) error {
	for try := 0; ; try++ {
		before := s.lastResponseAt.Load()
		done, err := op(ctx)
		switch {
		case done:
			return nil
		case errors.As(err, new(*fatalError)):
			return err
		case err == nil:
			try = -1
			continue
		case s.lastResponseAt.Load() != before:
			try = 0
		}
		if err := s.r.pause(ctx, min(try, 3)); err != nil {
			return err
		}
	}
}

// output stores output, beginning at the end of the log, until the worker reports the end.
func (s *stream) output(ctx context.Context) (done bool, err error) {
	resp, err := s.get(ctx, http.MethodGet, podapi.PathOutput, url.Values{"offset": {strconv.FormatInt(s.sink.Offset(), 10)}})
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or broken
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			s.lastResponseAt.Store(time.Now().UnixNano())
			if _, err := s.sink.Write(buf[:n]); err != nil {
				return false, &fatalError{fmt.Errorf("store the output of the build: %w", err)}
			}
		}
		if errors.Is(err, io.EOF) {
			s.mu.Lock()
			s.allStored = true
			s.mu.Unlock()
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// ackHeld acknowledges output that the next owner would find, so that the worker can make room, until
// ctx ends: after every ackBytes, and after ackAge. It does not wait for output: while the worker has no room, there is
// none until an acknowledgement.
func (s *stream) ackHeld(ctx context.Context) {
	tick := time.NewTicker(ackInterval)
	defer tick.Stop()
	for acked, current := int64(0), time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		held := s.sink.Held()
		if held <= acked {
			current = time.Now()
			continue
		}
		if (held-acked >= ackBytes || time.Since(current) >= ackAge) && s.ack(ctx, held, false) == nil {
			acked, current = held, time.Now()
		}
	}
}

func (s *stream) ack(ctx context.Context, offset int64, final bool) error {
	resp, err := s.get(ctx, http.MethodPost, podapi.PathAck, url.Values{"offset": {strconv.FormatInt(offset, 10)}, "final": {strconv.FormatBool(final)}})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// state reads and applies the next state of the worker. It is done once it has the result.
func (s *stream) state(ctx context.Context, version *uint64) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, (podapi.StateWait+15)*time.Second)
	defer cancel()
	resp, err := s.get(ctx, http.MethodGet, podapi.PathState, url.Values{"after": {strconv.FormatUint(*version, 10)}})
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // read to its end, or broken
	var st podapi.State
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&st); err != nil {
		return false, fmt.Errorf("decode the state of the worker: %w", err)
	}
	s.lastResponseAt.Store(time.Now().UnixNano())
	if st.Version != *version {
		*version = st.Version
		s.show(st)
	}
	if st.Result == nil {
		return false, nil
	}
	s.mu.Lock()
	s.res = st.Result
	s.mu.Unlock()
	return true, nil
}

func (s *stream) show(st podapi.State) {
	if st.Running {
		s.sink.Running()
	}
	if len(st.Steps) == 0 {
		return
	}
	steps := make([]*imagebuilderv1.Step, 0, len(st.Steps))
	for _, raw := range st.Steps {
		step := &imagebuilderv1.Step{}
		if protojson.Unmarshal(raw, step) == nil {
			steps = append(steps, step)
		}
	}
	s.sink.Steps(steps)
}

// get sends a request and returns a successful response, whose body the caller closes. Errors that
// a retry cannot change are *fatalError.
func (s *stream) get(ctx context.Context, method, path string, query url.Values) (*http.Response, error) {
	u := s.base
	u.Path, u.RawQuery = path, query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, &fatalError{err}
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 300 {
		s.lastResponseAt.Store(time.Now().UnixNano())
		return resp, nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	_ = resp.Body.Close()
	err = fmt.Errorf("the worker returned status %d: %s", resp.StatusCode, bytes.TrimSpace(text))
	switch resp.StatusCode {
	case http.StatusGone, http.StatusRequestedRangeNotSatisfiable:
		return nil, &fatalError{infra("the pod of the build no longer keeps the output from byte %d on: %v", s.sink.Offset(), err)}
	}
	return nil, err
}
