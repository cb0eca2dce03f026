package buildkit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerui"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"golang.org/x/sync/errgroup"

	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/tracing"
)

// goneTimeout bounds how long Run waits for a daemon to end a cancelled solve.
const goneTimeout = 5 * time.Second

// solve runs the workload on one daemon.
func (r *Runtime) solve(ctx context.Context, w *workload.Workload, sink workload.Sink, patterns *logs.Patterns) (workload.Outcome, error) {
	opening, span := tracing.Start(ctx, "buildkit context")
	src, err := r.open(opening, w)
	tracing.End(span, err)
	if err != nil {
		return workload.Outcome{}, err
	}
	defer func() {
		if err := src.close(); err != nil {
			r.opts.Log.Warn("cannot remove an unpacked build context", "build", w.BuildID, "attempt", w.Attempt, "err", err)
		}
	}()
	waiting, span := tracing.Start(ctx, "buildkit daemon")
	e, err := r.await(tracing.Quiet(waiting), src.key, w, sink)
	tracing.End(span, err)
	if err != nil {
		return workload.Outcome{}, err
	}
	defer r.pool.release(e)
	r.opts.Log.Debug("solve begins", "build", w.BuildID, "attempt", w.Attempt, "daemon", e.url)

	s := &solving{runtime: r, w: w, src: src, daemon: e}
	s.policy = &policy{registry: r.opts.Registry, git: src.git, http: r.opts.HTTP, rights: w.Rights, secrets: w.Secrets.GetBuild(), route: r.opts.Route}
	s.progress = newProgress(sink, patterns)
	solve, span := tracing.Start(ctx, "buildkit solve", tracing.Workload.String(w.Name()))
	resp, err := s.run(solve)
	tracing.End(span, err)
	if err != nil {
		return workload.Outcome{}, s.classify(ctx, err)
	}
	out := workload.Outcome{Repository: repository(w.BaseRef), Digest: resp.ExporterResponse["containerimage.digest"]}
	if out.Digest == "" {
		return workload.Outcome{}, fmt.Errorf("the BuildKit daemon %s pushed an image without reporting its digest", e.url)
	}
	img, err := r.opts.Registry.Resolve(ctx, out.Repository+"@"+out.Digest, firstPlatform(w), &buildsv1.Rights{AllowAll: true})
	if err != nil {
		return workload.Outcome{}, fmt.Errorf("resolve the pushed image: %w", err)
	}
	out.SizeBytes = img.SizeBytes
	return out, nil
}

// run solves, and returns once the daemon has ended the solve.
func (s *solving) run(ctx context.Context) (*client.SolveResponse, error) {
	opt, err := s.options()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.progress.begin(cancel)
	statuses := make(chan *client.SolveStatus)
	var resp *client.SolveResponse
	var group errgroup.Group
	group.Go(func() error {
		s.progress.follow(ctx, statuses)
		return nil
	})
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	group.Go(func() error {
		s.daemon.watch(tracing.Quiet(watching), s.runtime.watchInterval, func(err error) {
			s.runtime.pool.suspect(s.daemon)
			cancel(err)
		})
		return nil
	})
	resp, err = s.daemon.client.Build(ctx, opt, "", s.build, statuses)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if err == nil || !errors.As(err, new(*unresponsiveError)) {
		if err != nil {
			s.awaitGone(ctx)
		}
		s.deleteHistory(ctx)
	}
	unwatch()
	_ = group.Wait() // neither returns an error; the client has closed statuses, and follow prints the rest
	if err == nil {
		err = s.progress.err()
	}
	return resp, err
}

// awaitGone waits up to goneTimeout until the daemon has ended a solve that failed or was
// cancelled. The client returns earlier than that.
func (s *solving) awaitGone(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goneTimeout)
	defer cancel()
	if err := s.daemon.awaitGone(ctx, s.w.Name()); err != nil {
		s.runtime.pool.suspect(s.daemon)
		s.runtime.opts.Log.Warn("cannot confirm that a solve has ended", "build", s.w.BuildID, "attempt", s.w.Attempt, "daemon", s.daemon.url, "err", err)
	}
}

// deleteHistory removes the daemon's record of the solve.
func (s *solving) deleteHistory(ctx context.Context) {
	if err := s.daemon.deleteHistory(ctx); err != nil {
		s.runtime.opts.Log.Warn("cannot remove the history of solves from a BuildKit daemon; it holds the output of their steps",
			"build", s.w.BuildID, "attempt", s.w.Attempt, "daemon", s.daemon.url, "err", err)
	}
}

// options returns the options of the whole solve.
func (s *solving) options() (client.SolveOpt, error) {
	entitlements, err := s.entitlements()
	if err != nil {
		return client.SolveOpt{}, err
	}
	secrets := maps.Clone(s.w.Secrets.GetBuild())
	if secrets == nil {
		secrets = map[string][]byte{}
	}
	maps.Copy(secrets, s.src.secrets)
	name := repository(s.w.BaseRef)
	if route := s.runtime.opts.Route; route != nil {
		if name, err = route.Push(name); err != nil {
			return client.SolveOpt{}, err
		}
	}
	cache, err := s.cacheRef()
	if err != nil {
		return client.SolveOpt{}, err
	}
	opt := client.SolveOpt{
		Ref:         solveRef(s.w.Name()),
		SharedKey:   s.src.sharedKey,
		LocalMounts: s.src.mounts,
		// The daemon reads from here which attestations to make itself.
		FrontendAttrs: s.attestations(),
		Exports: []client.ExportEntry{{Type: client.ExporterImage, Attrs: map[string]string{
			"name": name, "push": "true", "push-by-digest": "true",
		}}},
		Session: []session.Attachable{
			&authenticator{credentials: s.runtime.opts.Credentials, rights: s.w.Rights, own: s.ownHosts()},
			secretsprovider.FromMap(secrets),
		},
		SourcePolicyProvider: policysession.NewPolicyProvider(s.policy.check),
		AllowedEntitlements:  entitlements,
	}
	if cache != "" {
		opt.CacheExports = []client.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{
			"ref": cache, "mode": "max", "image-manifest": "true", "oci-mediatypes": "true", "ignore-error": "true",
		}}}
	}
	return opt, nil
}

// build is the callback of the client, for when the session is open. It reads the Dockerfile and
// passes only that to the frontend.
func (s *solving) build(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
	df, err := s.src.dockerfile(ctx, c)
	if err != nil {
		s.refused = err
		return nil, err
	}
	attrs, err := s.frontend(df)
	if err != nil {
		s.refused = err
		return nil, err
	}
	inputs := map[string]*pb.Definition{}
	for name, state := range s.src.inputs(df) {
		def, err := state.Marshal(ctx)
		if err != nil {
			return nil, fmt.Errorf("describe the %s to BuildKit: %w", name, err)
		}
		inputs[name] = def.ToPB()
	}
	res, err := c.Solve(ctx, gateway.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: attrs, FrontendInputs: inputs})
	s.parsed = err == nil
	return res, err
}

// inputs returns the sources that the frontend reads: the checked Dockerfile, and the context
// unless this process streams it.
func (src *source) inputs(df dockerfile) map[string]llb.State {
	name := dockerui.WithInternalName("load build definition from " + df.path)
	file := "/" + df.path
	var action *llb.FileAction
	if dir := file[:strings.LastIndexByte(file, '/')]; dir != "" {
		action = llb.Mkdir(dir, 0o755, llb.WithParents(true)).Mkfile(file, 0o644, df.data)
	} else {
		action = llb.Mkfile(file, 0o644, df.data)
	}
	if df.ignore != nil {
		action = action.Mkfile(file+".dockerignore", 0o644, df.ignore)
	}
	inputs := map[string]llb.State{dockerui.DefaultLocalNameDockerfile: llb.Scratch().File(action, name)}
	if src.context != nil {
		inputs[dockerui.DefaultLocalNameContext] = *src.context
	}
	return inputs
}

func firstPlatform(w *workload.Workload) string {
	if p := w.Source.GetDockerfile().GetPlatforms(); len(p) > 0 {
		return p[0]
	}
	return ""
}
