package wsmanagertest

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Methods whose calls can be counted and made to fail.
const (
	Start     = "StartWorkspace"
	Stop      = "StopWorkspace"
	Describe  = "DescribeWorkspace"
	Get       = "GetWorkspaces"
	Subscribe = "Subscribe"
)

// Manager is a fake ws-manager on a TCP socket of loopback.
type Manager struct {
	wsman.UnimplementedWorkspaceManagerServer
	t     testing.TB
	creds credentials.TransportCredentials
	addr  string

	mu         sync.Mutex
	server     *grpc.Server
	served     chan struct{}
	workspaces map[string]*wsman.WorkspaceStatus
	subs       map[*subscriber]bool
	calls      map[string]int
	starts     []*wsman.StartWorkspaceRequest
	stops      []*wsman.StopWorkspaceRequest
	fail       map[string]*failure
	muted      bool
	holding    bool
	held       []*wsman.WorkspaceStatus
	strip      func(*wsman.WorkspaceStatus)
	access     func(id string) (url, token string)
	onStart    func(ctx context.Context, req *wsman.StartWorkspaceRequest) error
	onStop     func(req *wsman.StopWorkspaceRequest)
	// changed is closed and replaced at each call and each subscription.
	changed chan struct{}
}

type failure struct {
	err   error
	times int // negative: always
}

// subscriber is one Subscribe call. Its queue has no limit, so that a test never blocks.
type subscriber struct {
	match *wsman.MetadataFilter
	queue []*wsman.SubscribeResponse
	wake  chan struct{} // capacity 1
	drop  chan struct{}
}

// NewManager starts a fake that ends with the test. creds may be nil.
func NewManager(t testing.TB, creds credentials.TransportCredentials) *Manager {
	t.Helper()
	m := &Manager{
		t: t, creds: creds, addr: testkit.FreeAddr(t), // still free after Down
		workspaces: map[string]*wsman.WorkspaceStatus{}, subs: map[*subscriber]bool{}, calls: map[string]int{},
		fail: map[string]*failure{}, changed: make(chan struct{}),
	}
	m.Up()
	t.Cleanup(m.Down)
	return m
}

// Address returns the listen address. It stays the same after Down and Up.
func (m *Manager) Address() string { return m.addr }

// Up starts to listen. It does nothing if the fake listens already.
func (m *Manager) Up() {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.server != nil {
		return
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", m.addr)
	if err != nil {
		m.t.Fatalf("listen: %v", err)
	}
	m.addr = l.Addr().String()
	var opts []grpc.ServerOption
	if m.creds != nil {
		opts = append(opts, grpc.Creds(m.creds))
	}
	server, served := grpc.NewServer(opts...), make(chan struct{})
	wsman.RegisterWorkspaceManagerServer(server, m)
	m.server, m.served = server, served
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
}

// Down closes the listener and all connections. Workspaces continue.
func (m *Manager) Down() {
	m.mu.Lock()
	server, served := m.server, m.served
	m.server = nil
	m.mu.Unlock()
	if server != nil {
		server.Stop()
		<-served
	}
}

// enter counts a call and returns the error that it must fail with, or nil.
func (m *Manager) enter(method string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.count(method)
}

// count is like enter, but the caller holds the lock.
func (m *Manager) count(method string) error {
	m.calls[method]++
	m.wake()
	f := m.fail[method]
	if f == nil || f.times == 0 {
		return nil
	}
	f.times--
	return f.err
}

// wake wakes the await calls. The caller holds the lock.
func (m *Manager) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// StartWorkspace creates a workspace in phase PENDING.
func (m *Manager) StartWorkspace(ctx context.Context, req *wsman.StartWorkspaceRequest) (*wsman.StartWorkspaceResponse, error) {
	m.mu.Lock()
	m.starts = append(m.starts, proto.CloneOf(req))
	hook := m.onStart
	// Count and decide under one lock: a test that has awaited the call can rely on its result.
	if err := m.count(Start); err != nil {
		m.mu.Unlock()
		return nil, err
	}
	if m.workspaces[req.GetId()] != nil {
		m.mu.Unlock()
		return nil, status.Errorf(codes.AlreadyExists, "workspace %s exists already", req.GetId())
	}
	url, token := m.accessOf(req.GetId())
	m.workspaces[req.GetId()] = &wsman.WorkspaceStatus{
		Id: req.GetId(), Metadata: req.GetMetadata(), Phase: wsman.WorkspacePhase_PENDING,
		Spec:       &wsman.WorkspaceSpec{WorkspaceImage: req.GetSpec().GetWorkspaceImage(), Headless: true, Url: url, Type: req.GetType()},
		Conditions: &wsman.WorkspaceConditions{}, Auth: &wsman.WorkspaceAuthentication{OwnerToken: token}, StatusVersion: 1,
	}
	m.wake()
	m.publish(m.workspaces[req.GetId()])
	m.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, req); err != nil {
			return nil, err
		}
	}
	return &wsman.StartWorkspaceResponse{Url: url, OwnerToken: token}, nil
}

func (m *Manager) accessOf(id string) (url, token string) {
	if m.access == nil {
		return "", ""
	}
	return m.access(id)
}

// StopWorkspace records the request; OnStop decides what follows.
func (m *Manager) StopWorkspace(_ context.Context, req *wsman.StopWorkspaceRequest) (*wsman.StopWorkspaceResponse, error) {
	m.mu.Lock()
	m.stops = append(m.stops, proto.CloneOf(req))
	there, hook := m.workspaces[req.GetId()] != nil, m.onStop
	m.mu.Unlock()
	if err := m.enter(Stop); err != nil {
		return nil, err
	}
	if !there {
		return nil, status.Errorf(codes.NotFound, "no workspace %s", req.GetId())
	}
	if hook != nil {
		hook(req)
	}
	return &wsman.StopWorkspaceResponse{}, nil
}

// DescribeWorkspace returns the true status.
func (m *Manager) DescribeWorkspace(_ context.Context, req *wsman.DescribeWorkspaceRequest) (*wsman.DescribeWorkspaceResponse, error) {
	if err := m.enter(Describe); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.workspaces[req.GetId()]
	if s == nil {
		return nil, status.Errorf(codes.NotFound, "no workspace %s", req.GetId())
	}
	return &wsman.DescribeWorkspaceResponse{Status: proto.CloneOf(s)}, nil
}

// GetWorkspaces returns the true statuses of the matching workspaces.
func (m *Manager) GetWorkspaces(_ context.Context, req *wsman.GetWorkspacesRequest) (*wsman.GetWorkspacesResponse, error) {
	if err := m.enter(Get); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	res := &wsman.GetWorkspacesResponse{}
	for _, s := range m.workspaces {
		if matches(s, req.GetMustMatch()) {
			res.Status = append(res.Status, proto.CloneOf(s))
		}
	}
	return res, nil
}

// Subscribe streams the published statuses.
func (m *Manager) Subscribe(req *wsman.SubscribeRequest, stream wsman.WorkspaceManager_SubscribeServer) error {
	if err := m.enter(Subscribe); err != nil {
		return err
	}
	s := &subscriber{match: req.GetMustMatch(), wake: make(chan struct{}, 1), drop: make(chan struct{})}
	m.mu.Lock()
	m.subs[s] = true
	m.wake()
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.subs, s)
		m.wake()
		m.mu.Unlock()
	}()
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-s.drop:
			return status.Error(codes.Unavailable, "dropped")
		case <-s.wake:
		}
		m.mu.Lock()
		queue := s.queue
		s.queue = nil
		m.mu.Unlock()
		for _, res := range queue {
			if err := stream.Send(res); err != nil {
				return err
			}
		}
	}
}

// publish sends a status to the subscribers. The caller holds the lock.
func (m *Manager) publish(s *wsman.WorkspaceStatus) {
	if m.muted {
		return
	}
	if m.holding {
		m.held = append(m.held, proto.CloneOf(s))
		return
	}
	s = proto.CloneOf(s)
	if m.strip != nil {
		m.strip(s)
	}
	for sub := range m.subs {
		if !matches(m.workspaces[s.GetId()], sub.match) {
			continue
		}
		sub.queue = append(sub.queue, &wsman.SubscribeResponse{Status: s})
		select {
		case sub.wake <- struct{}{}:
		default:
		}
	}
}

func matches(s *wsman.WorkspaceStatus, f *wsman.MetadataFilter) bool {
	for k, v := range f.GetAnnotations() {
		if s.GetMetadata().GetAnnotations()[k] != v {
			return false
		}
	}
	return (f.GetOwner() == "" || f.GetOwner() == s.GetMetadata().GetOwner()) &&
		(f.GetMetaId() == "" || f.GetMetaId() == s.GetMetadata().GetMetaId())
}
