package api

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// ServiceOptions are the parts and the configuration of a service.
type ServiceOptions struct {
	Store        *builds.Store
	Raft         Raft
	Registry     Registry
	Logs         LogReader
	Repositories Repositories
	// Timeout is the time limit of a build whose request names none. MaxTimeout is the greatest
	// limit that a request may name.
	Timeout, MaxTimeout time.Duration
	// Dockerfiles reports whether a runtime can build Dockerfiles.
	Dockerfiles bool
	// Contexts stores uploaded contexts. If it is nil, uploads are refused.
	Contexts Contexts
	// TempDir is the directory for uploads in progress. MaxContext is the maximum size of an
	// upload, in bytes.
	TempDir    string
	MaxContext int64
	// OneTime fetches the credential `user:password` from a URL that returns it once. If it is nil,
	// one-time credentials are refused.
	OneTime func(ctx context.Context, url string) (user, password string, err error)
	// Commit returns the commit to which a git context resolves now. It uses the git credential of
	// the secrets. If it is nil, git contexts are not resolved.
	Commit func(context.Context, *imagebuilderv1.GitContext, *buildsv1.Secrets) (string, error)
	// Waiting returns a function that explains why a queued build of a state waits. May be nil.
	Waiting func(*builds.State) func(*buildsv1.Record) string
	// LogInfo returns the HTTP address of the log of a build for clients of Gitpod's API, with a
	// token if withToken is set. If it is nil, there is no address.
	LogInfo func(build string, withToken bool) *builder.LogInfo
	// LeftOff is called with the number of builds that a response of Gitpod's ListBuilds left out
	// because of its size. May be nil.
	LeftOff func(int)
	// Nodes returns the response of ListNodes without its ReadInfo. If it is nil, the call is
	// refused.
	Nodes func(context.Context) (*imagebuilderv1.ListNodesResponse, error)
}

// Service is the common part of both APIs. It reads the local state and writes to the replicated
// log. It is safe for concurrent use.
type Service struct {
	store       *builds.Store
	raft        Raft
	registry    Registry
	logs        LogReader
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
	active      activeList
}

// NewService returns a service.
func NewService(o ServiceOptions) *Service {
	return &Service{
		store: o.Store, raft: o.Raft, registry: o.Registry, logs: o.Logs,
		repos: o.Repositories, timeout: o.Timeout, maxTimeout: o.MaxTimeout,
		dockerfiles: o.Dockerfiles, logInfo: o.LogInfo, leftOff: o.LeftOff,
		contexts: o.Contexts, tempDir: o.TempDir, maxContext: o.MaxContext, oneTime: o.OneTime, commit: o.Commit,
		waiting: o.Waiting, nodes: o.Nodes,
	}
}
