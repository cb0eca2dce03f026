package api

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/builds"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// ServiceOptions are what the APIs are made of.
type ServiceOptions struct {
	Store        *builds.Store
	Raft         builds.Raft
	Registry     builds.Registry
	Logs         builds.LogReader
	Repositories Repositories
	// Timeout is the limit of a build whose request names none, MaxTimeout the
	// greatest that a request may name.
	Timeout, MaxTimeout time.Duration
	// Dockerfiles tells that some runtime can build Dockerfiles.
	Dockerfiles bool
	// Contexts stores uploaded contexts; without it uploads are refused.
	Contexts Contexts
	// TempDir is where uploads are received; MaxContext is their limit in bytes.
	TempDir    string
	MaxContext int64
	// OneTime redeems a URL that answers `user:password` once.
	OneTime func(ctx context.Context, url string) (user, password string, err error)
	// Commit answers the commit that a git context names now, asked for with the
	// secrets of the request; without it contexts are built as they are named.
	Commit func(context.Context, *imagebuilderv1.GitContext, *buildsv1.Secrets) (string, error)
	// Waiting answers what tells why queued builds of a state wait; nil for none.
	Waiting func(*builds.State) func(*buildsv1.Record) string
	// LogInfo tells clients of Gitpod's API where the log of a build can be read
	// by HTTP, with a token if withToken is set; nil for nowhere.
	LogInfo func(build string, withToken bool) *builder.LogInfo
	// LeftOff is told how many builds an answer of Gitpod's ListBuilds had no
	// room for; nil for nobody.
	LeftOff func(int)
	// Nodes answers ListNodes but for ReadInfo; nil refuses the call.
	Nodes func(context.Context) (*imagebuilderv1.ListNodesResponse, error)
}

// Service answers both APIs from the local state and the replicated log.
type Service struct {
	store       *builds.Store
	raft        builds.Raft
	registry    builds.Registry
	logs        builds.LogReader
	repos       Repositories
	timeout     time.Duration
	maxTimeout  time.Duration
	dockerfiles bool
	contexts    Contexts
	tempDir     string
	maxContext  int64
	oneTime     func(ctx context.Context, url string) (user, password string, err error)
	commit      func(context.Context, *imagebuilderv1.GitContext, *buildsv1.Secrets) (string, error)
	waiting     func(*builds.State) func(*buildsv1.Record) string
	logInfo     func(build string, withToken bool) *builder.LogInfo
	leftOff     func(int)
	nodes       func(context.Context) (*imagebuilderv1.ListNodesResponse, error)
	listed      listed
}

// NewService answers a service over the given parts.
func NewService(o ServiceOptions) *Service {
	return &Service{
		store: o.Store, raft: o.Raft, registry: o.Registry, logs: o.Logs,
		repos: o.Repositories, timeout: o.Timeout, maxTimeout: o.MaxTimeout,
		dockerfiles: o.Dockerfiles, logInfo: o.LogInfo, leftOff: o.LeftOff,
		contexts: o.Contexts, tempDir: o.TempDir, maxContext: o.MaxContext, oneTime: o.OneTime, commit: o.Commit,
		waiting: o.Waiting, nodes: o.Nodes,
	}
}

// admission is the answer to a wish: a build, or an image that exists.
type admission struct {
	build    *imagebuilderv1.Build
	attached bool
	exists   *plan
}

// admit turns a wish into a build, joins one, or finds that there is nothing
// to do.
func (s *Service) admit(ctx context.Context, w *wish) (admission, error) {
	hash := w.identity()
	if w.requestID != "" {
		if adm, known, err := s.answered(w, hash); known {
			return adm, err
		}
	} else {
		// Asking the log again, through a change of the leader, must not make
		// another build.
		w.requestID, w.requestMade = uuid.NewString(), true
	}
	p, err := s.plan(ctx, w)
	if err != nil {
		return admission{}, err
	}
	if p.digest != "" {
		tracing.Set(ctx, tracing.Ref.String(p.ref), tracing.Exists.Bool(true))
		return admission{exists: &p}, nil
	}
	if p.source.GetDockerfile() != nil && !s.dockerfiles {
		return admission{}, status.Error(codes.FailedPrecondition, "no runtime for Dockerfile builds is configured")
	}
	if err := s.needContext(ctx, p.source); err != nil {
		return admission{}, err
	}
	if b, err := s.spend(ctx, w, &p); b != nil || err != nil {
		return admission{build: b, attached: true}, err
	}
	cmd := &buildsv1.CreateBuild{
		Ref: p.ref, BaseRef: p.baseRef, Source: p.source,
		Rights: s.toCopy(&p, w.rights), Secrets: w.secrets,
		Requester: w.requester, RequestId: w.requestID, RequestMade: w.requestMade, RequestHash: hash,
		Labels: w.labels, TimeoutNanos: int64(w.timeout), Force: w.force,
		CheckedIndex: p.checkedIndex, SupervisorRef: w.supervisorRef,
		Traceparent: tracing.Traceparent(ctx),
	}
	if answer, ok := s.mutated(cmd); ok {
		return answer, nil
	}
	res, _, err := builds.Propose(ctx, s.raft, cmd)
	if err != nil {
		return admission{}, err
	}
	s.tell(ctx, res)
	return admission{build: res.Build, attached: res.Attached}, nil
}

// tell adds to the span of a call what became of it: one that has joined a
// build is linked to the trace of that build.
func (s *Service) tell(ctx context.Context, res builds.Result) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return
	}
	tracing.Set(ctx, tracing.Build.String(res.Build.GetId()), tracing.Ref.String(res.Build.GetRef()), tracing.Attached.Bool(res.Attached))
	if res.Attached {
		tracing.Link(ctx, s.store.Build(res.Build.GetId()).GetTraceparent())
	}
}

// toCopy answers the rights of an attempt: those of the request, and what it
// takes to read an earlier build's image that it copies.
func (s *Service) toCopy(p *plan, rights *buildsv1.Rights) *buildsv1.Rights {
	return s.repos.toRead(p.source.GetRef().GetRef(), rights)
}

// answered looks a request id up in the local state, so that asking again
// needs no registry. A node that trails behind asks the log, which knows all.
func (s *Service) answered(w *wish, hash []byte) (admission, bool, error) {
	var req *buildsv1.Request
	var r *buildsv1.Record
	s.store.Read(func(st *builds.State) {
		if req = st.Request(w.requester, w.requestID); req != nil {
			r = st.Build(req.BuildId)
		}
	})
	switch {
	case req == nil:
		return admission{}, false, nil
	case string(req.Hash) != string(hash):
		return admission{}, true, builds.ErrRequestReused
	case r == nil:
		return admission{}, true, builds.ErrRequestForgotten
	}
	return admission{build: r.Build, attached: req.Attached}, true, nil
}

// readInfo tells how fresh the answers of this node are.
func (s *Service) readInfo() *imagebuilderv1.ReadInfo {
	index, known, stale := s.raft.Freshness()
	return &imagebuilderv1.ReadInfo{Index: index, LeaderKnown: known, Staleness: durationpb.New(stale)}
}

// catchUp waits until the local state is as new as a read asks for.
func (s *Service) catchUp(ctx context.Context, minIndex uint64, linearizable bool) error {
	if linearizable {
		index, err := s.raft.ReadIndex(ctx)
		if err != nil {
			return err
		}
		minIndex = max(minIndex, index)
	}
	if minIndex == 0 {
		return nil
	}
	return s.raft.WaitApplied(ctx, minIndex)
}

// Lists are at most this old where a leader can be asked in time.
const (
	listStaleness = 2 * time.Second
	listPatience  = 250 * time.Millisecond
)

// catchUpList is catchUp for lists: without a wish for more, they may be a
// little old, and older where no leader can be asked. They say how old.
func (s *Service) catchUpList(ctx context.Context, minIndex uint64, linearizable bool) error {
	if _, known, stale := s.raft.Freshness(); !linearizable && (!known || stale > listStaleness) {
		wait, cancel := context.WithTimeout(ctx, listPatience)
		defer cancel()
		_ = s.catchUp(wait, 0, true)
	}
	return s.catchUp(ctx, minIndex, linearizable)
}

// find answers a build by id or, without one, the newest of a ref. A node that
// does not know it makes sure that nobody does before it says so.
func (s *Service) find(ctx context.Context, id, ref string) (*buildsv1.Record, error) {
	if id == "" && ref == "" {
		return nil, invalidf("name a build, by id or by ref")
	}
	look := func() (r *buildsv1.Record) {
		s.store.Read(func(st *builds.State) {
			if id != "" {
				r = st.Build(id)
			} else {
				r = st.Newest(ref)
			}
		})
		return r
	}
	if r := look(); r != nil {
		return r, nil
	}
	if err := s.catchUp(ctx, 0, true); err != nil {
		return nil, err
	}
	if r := look(); r != nil {
		return r, nil
	}
	return nil, builds.ErrNotFound
}
