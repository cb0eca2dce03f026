package worker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/copy"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
	"github.com/image-builder-ha/image-builder/tracing"
)

// readyTimeout is how long the proxy and BuildKit may take to listen, from the start of the worker.
const readyTimeout = 2 * time.Minute

// minSecret is the minimum length of a secret that is removed from messages in its plain form, in
// bytes: a shorter one may be part of a word. Secrets that logs redact are removed in all
// encodings.
const minSecret = 4

// ErrFailed means that the workload did not succeed. The result holds the reason.
var ErrFailed = errors.New("the build failed")

// Run does the job. It returns once an owner knows the result, no owner came in time, or ctx has
// ended. It returns ErrFailed if the workload failed, so that the exit code of the container shows
// it.
func Run(ctx context.Context, j *podapi.Job, log *slog.Logger) error {
	l, err := net.Listen("tcp", j.Listen)
	if err != nil {
		return fmt.Errorf("listen for the owner at %s: %w", j.Listen, err)
	}
	return Serve(ctx, j, l, log)
}

// Serve is Run with a listener, which it closes.
func Serve(ctx context.Context, j *podapi.Job, l net.Listener, log *slog.Logger) error {
	cert, err := tls.X509KeyPair([]byte(j.Certificate), []byte(j.Key))
	if err != nil {
		_ = l.Close()
		return fmt.Errorf("read the certificate of the job: %w", err)
	}
	s, err := openSpool(filepath.Join(j.Dir, "output"), max(j.SpoolBytes, minSpoolBytes))
	if err != nil {
		_ = l.Close()
		return err
	}
	defer func() { _ = s.close() }() // the disk of the pod goes with the pod
	work, stop := context.WithCancel(ctx)
	defer stop()
	r := newReport(work, s)
	srv := newServer(j.Token, r)
	serving, quit := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() {
		served <- srv.serve(serving, l, cert)
		stop() // without a server no owner would learn of the build
	}()

	names := proxy.Names{Addr: j.ProxyAddr}
	out, err := execute(work, j, plainSink{r, names}, log)
	if err != nil && ctx.Err() != nil {
		err = &workload.Failure{Blame: builds.BlameInfrastructure, Message: "the pod was stopped before its build had ended", Err: err}
	}
	res := plainResult(podapi.ResultOf(out, err), names)
	res = redacted(res, j)
	res.Length = r.Offset()
	written := writeResult(j.TerminationPath, res)
	r.end(res)
	linger(ctx, j.Linger, srv.final, log)
	quit()
	if err := <-served; err != nil {
		log.Warn("cannot end the server", "err", err)
	}
	if written != nil {
		return written
	}
	if res.Digest == "" {
		return ErrFailed
	}
	return nil
}

// linger waits until an owner knows everything, for at most limit.
func linger(ctx context.Context, limit time.Duration, final <-chan struct{}, log *slog.Logger) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-final:
	case <-ctx.Done():
	case <-timer.C:
		log.Warn("no owner fetched the output of the build", "waited", limit)
	}
}

// redacted removes the secrets of the build from a result. Package buildkit has redacted the output
// and the steps. Owners redact all of it again.
func redacted(r podapi.Result, j *podapi.Job) podapi.Result {
	w, err := j.Workload()
	if err != nil {
		return r
	}
	values := secrets.Values(w.Secrets)
	r.Message = logs.NewRedactor(values, nil).String(r.Message)
	for _, s := range values {
		if v := strings.TrimSpace(string(s)); len(v) >= minSecret {
			r.Message = strings.ReplaceAll(r.Message, v, "[redacted]")
		}
	}
	return r
}

// writeResult writes the termination message. Kubernetes reads it when the container has ended, for
// whatever reason.
func writeResult(path string, r podapi.Result) error {
	if path == "" {
		return nil
	}
	if err := os.WriteFile(path, r.Encode(), 0o644); err != nil {
		return fmt.Errorf("write the termination message: %w", err)
	}
	return nil
}

// execute runs the workload to its end.
func execute(ctx context.Context, j *podapi.Job, sink workload.Sink, log *slog.Logger) (workload.Outcome, error) {
	w, err := j.Workload()
	if err != nil {
		return workload.Outcome{}, err
	}
	if err := awaitListener(ctx, "tcp", j.ProxyAddr); err != nil {
		return workload.Outcome{}, fmt.Errorf("wait for the registry proxy: %w", err)
	}
	regs, err := openRegistries(j, log)
	if err != nil {
		return workload.Outcome{}, err
	}
	defer func() { _ = regs.client.Close() }() // no requests are pending
	if w.Source.GetDockerfile() == nil {
		return copy.New(regs).Run(ctx, w, sink)
	}
	return solve(ctx, j, w, regs, sink, log)
}

// solve builds a Dockerfile with BuildKit.
func solve(ctx context.Context, j *podapi.Job, w *workload.Workload, regs *registries, sink workload.Sink, log *slog.Logger) (workload.Outcome, error) {
	rt, err := buildkit.New(buildkit.Options{
		Daemons:  []buildkit.Address{{URL: j.BuildKit}},
		Registry: regs,
		Contexts: regs,
		Credentials: func(_ context.Context, host string, _ *buildsv1.Rights, _ bool) (user, password string, err error) {
			if host == j.ProxyAddr {
				return proxy.User, j.ProxyToken, nil
			}
			return "", "", nil
		},
		HTTP:            requestHTTP(j),
		TempDir:         filepath.Join(j.Dir, "contexts"),
		ContextBytes:    j.ContextBytes,
		ContextFiles:    j.ContextFiles,
		CacheRepository: j.CacheRepository,
		Frontends:       j.Frontends,
		Networks:        j.Networks,
		Route:           regs.names,
		DaemonWait:      readyTimeout,
		Tracer:          noop.NewTracerProvider(), // creates no spans, but passes on the owner's trace
		Log:             log,
	})
	if err != nil {
		return workload.Outcome{}, err
	}
	defer func() { _ = rt.Close() }() // no requests are pending
	if err := rt.AwaitReady(ctx, readyTimeout); err != nil {
		return workload.Outcome{}, err
	}
	return rt.Run(tracing.Remote(ctx, j.Traceparent), w, sink)
}

// requestHTTP returns the client for addresses that come from requests.
func requestHTTP(j *podapi.Job) *http.Client {
	policy := registry.AddressPolicy{AllowHosts: j.AllowHosts, AllowLoopback: j.AllowLoopback}
	return &http.Client{
		Timeout: 5 * time.Minute,
		Transport: &http.Transport{
			DialContext:           registry.GuardedDial(policy),
			Proxy:                 registry.GuardedProxy(policy, http.ProxyFromEnvironment), // set in kubernetes.podTemplate
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			IdleConnTimeout:       time.Minute,
		},
	}
}

// awaitListener polls until the address accepts connections, for at most readyTimeout.
func awaitListener(ctx context.Context, network, addr string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("nothing listens at %s after %s", addr, readyTimeout))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var d net.Dialer
	for {
		conn, err := d.DialContext(ctx, network, addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
