package api_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	baseRepo      = "registry.example.com/base-images"
	workspaceRepo = "registry.example.com/workspace-images"
)

// localRaft is the replicated log of a single node. It commits at once.
type localRaft struct {
	mu    sync.Mutex
	m     *buildstest.Machine
	prep  builds.Preparer
	fails error
}

func (l *localRaft) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fails != nil {
		return 0, nil, l.fails
	}
	cmd, err := l.prep.Prepare(ctx, cmd)
	if err != nil {
		return 0, nil, err
	}
	l.m.Index++
	cmd.TimeUnixNano = l.m.Now.UnixNano()
	return l.m.Index, l.m.Store.Apply(l.m.Index, cmd), nil
}
func (l *localRaft) ReadIndex(context.Context) (uint64, error) { return 0, nil }
func (l *localRaft) WaitApplied(context.Context, uint64) error { return nil }
func (l *localRaft) Freshness() (uint64, bool, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.m.Index, true, 0
}

// fakeRegistry is a registry in memory.
type fakeRegistry struct {
	mu     sync.Mutex
	images map[string]string  // ref to digest
	fail   map[string]error   // ref to the error of its look-ups
	rights []*buildsv1.Rights // of all look-ups
}

func (s *fakeRegistry) Resolve(_ context.Context, ref, _ string, r *buildsv1.Rights) (builds.Image, error) {
	img, err := s.Head(context.Background(), ref, r)
	if err == nil {
		name, _, _ := strings.Cut(ref, "@")
		if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
			name = name[:i]
		}
		img.Ref = name + "@" + img.Digest
	}
	return img, err
}

func (s *fakeRegistry) Head(_ context.Context, ref string, r *buildsv1.Rights) (builds.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rights = append(s.rights, r)
	if err := s.fail[ref]; err != nil {
		return builds.Image{}, err
	}
	d, ok := s.images[ref]
	if !ok {
		return builds.Image{}, &builds.ImageError{Kind: builds.ImageNotFound, Ref: ref, Err: fmt.Errorf("%q is not in the registry", ref)}
	}
	return builds.Image{Ref: ref, Digest: d}, nil
}

// noLogs is a LogReader without logs.
type noLogs struct{}

func (noLogs) OpenLog(context.Context, string, uint32, int64, bool) (logs.Stream, error) {
	return nil, builds.ErrNotFound
}

// bothAPIs is a server of both APIs with its state and its registry, and a client of each API.
type bothAPIs struct {
	*buildstest.Machine
	raft     *localRaft
	registry *fakeRegistry
	native   imagebuilderv1.ImageBuilderClient
	gitpod   builder.ImageBuilderClient
}

// newAPI starts a server of both APIs.
func newAPI(t testing.TB, opts ...grpc.ServerOption) *bothAPIs {
	t.Helper()
	return newAPIWith(t, func(*api.ServiceOptions) {}, opts...)
}

// newAPIWith is like newAPI, with options of the service that change sets.
func newAPIWith(t testing.TB, change func(*api.ServiceOptions), opts ...grpc.ServerOption) *bothAPIs {
	t.Helper()
	m := buildstest.NewMachine(t)
	a := &bothAPIs{
		Machine:  m,
		raft:     &localRaft{m: m, prep: builds.Preparer{Keyring: buildstest.MustKeyring(t, filepath.Join(t.TempDir(), "key"))}},
		registry: &fakeRegistry{images: map[string]string{"docker.io/library/ubuntu:22.04": "sha256:u"}, fail: map[string]error{}},
	}
	o := api.ServiceOptions{
		Store: m.Store, Raft: a.raft, Registry: a.registry, Logs: noLogs{},
		Repositories: api.Repositories{Base: baseRepo, Workspace: workspaceRepo, BaseHost: "registry.example.com", WorkspaceHost: "registry.example.com"},
		Timeout:      time.Hour, MaxTimeout: 6 * time.Hour,
	}
	change(&o)
	svc := api.NewService(o)
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer(opts...)
	imagebuilderv1.RegisterImageBuilderServer(g, api.Native{Service: svc})
	builder.RegisterImageBuilderServer(g, api.Gitpod{Service: svc})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); g.Stop(); wg.Wait() })
	a.native, a.gitpod = imagebuilderv1.NewImageBuilderClient(conn), builder.NewImageBuilderClient(conn)
	return a
}

func refSource(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}

func gitpodRef(ref string) *builder.BuildSource {
	return &builder.BuildSource{From: &builder.BuildSource_Ref{Ref: &builder.BuildSourceReference{Ref: ref}}}
}

const ubuntu = "docker.io/library/ubuntu:22.04"

// wantCode checks the code and a part of the message of an error.
func wantCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v, want %s with %q", err, code, text)
	}
}

// gitSource returns a Dockerfile source in the messages of both APIs.
func gitSource(uri, target, dockerfile, version, dir string) (*imagebuilderv1.Source, *builder.BuildSource) {
	n := &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{
		Context:        &imagebuilderv1.DockerfileSource_Git{Git: &imagebuilderv1.GitContext{RemoteUri: uri, CloneTarget: target}},
		DockerfilePath: dockerfile, DockerfileVersion: version, ContextPath: dir,
	}}}
	g := &builder.BuildSource{From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{
		Source: &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{
			Git: &contentservice.GitInitializer{RemoteUri: uri, CloneTaget: target},
		}},
		DockerfilePath: dockerfile, DockerfileVersion: version, ContextPath: dir,
	}}}
	return n, g
}
