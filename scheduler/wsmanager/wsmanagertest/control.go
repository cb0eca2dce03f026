package wsmanagertest

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// Access sets the function that provides the address and token of workspaces.
func (m *Manager) Access(f func(id string) (url, token string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.access = f
}

// OnStart sets a function that is called after a workspace was created and before StartWorkspace
// returns. If it returns an error, StartWorkspace returns that error.
func (m *Manager) OnStart(f func(ctx context.Context, req *wsman.StartWorkspaceRequest) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onStart = f
}

// OnStop sets a function that is called for a request to stop an existing workspace.
func (m *Manager) OnStop(f func(req *wsman.StopWorkspaceRequest)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onStop = f
}

// Fail makes the next calls of a method fail; all calls if times is negative.
func (m *Manager) Fail(method string, err error, times int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail[method] = &failure{err, times}
}

// Mute drops updates instead of sending them.
func (m *Manager) Mute(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.muted = on
}

// Hold holds updates back until Release.
func (m *Manager) Hold() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holding = true
}

// Release sends the updates that were held back. reorder, if not nil, may change their order first.
func (m *Manager) Release(reorder func([]*wsman.WorkspaceStatus)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := m.held
	m.holding, m.held = false, nil
	if reorder != nil {
		reorder(held)
	}
	for _, s := range held {
		m.publish(s)
	}
}

// Strip sets a function that removes parts of the updates before they are sent.
func (m *Manager) Strip(f func(*wsman.WorkspaceStatus)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.strip = f
}

// DropSubscriptions ends all open Subscribe calls.
func (m *Manager) DropSubscriptions() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.subs {
		close(s.drop)
		delete(m.subs, s)
	}
}

// Update changes the true status of a workspace, increases its version, and publishes it.
func (m *Manager) Update(id string, change func(s *wsman.WorkspaceStatus)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.workspaces[id]
	if s == nil {
		s = &wsman.WorkspaceStatus{Id: id}
		m.workspaces[id] = s
	}
	s.StatusVersion++
	change(s)
	m.publish(s)
}

// Phase changes the phase of a workspace.
func (m *Manager) Phase(id string, p wsman.WorkspacePhase) {
	m.Update(id, func(s *wsman.WorkspaceStatus) { s.Phase = p })
}

// Publish sends any status, independent of the true one.
func (m *Manager) Publish(s *wsman.WorkspaceStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.publish(s)
}

// Send sends a whole response to all subscribers.
func (m *Manager) Send(res *wsman.SubscribeResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for sub := range m.subs {
		sub.queue = append(sub.queue, res)
		select {
		case sub.wake <- struct{}{}:
		default:
		}
	}
}

// Forget removes a workspace without an update.
func (m *Manager) Forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.workspaces, id)
}

// Status returns the true status of a workspace, or nil if there is none.
func (m *Manager) Status(id string) *wsman.WorkspaceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.workspaces[id] == nil {
		return nil
	}
	return proto.CloneOf(m.workspaces[id])
}

// Calls returns how often a method was called.
func (m *Manager) Calls(method string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[method]
}

// Starts returns the requests to start workspaces, including refused ones.
func (m *Manager) Starts() []*wsman.StartWorkspaceRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*wsman.StartWorkspaceRequest(nil), m.starts...)
}

// Stops returns the requests to stop workspaces.
func (m *Manager) Stops() []*wsman.StopWorkspaceRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*wsman.StopWorkspaceRequest(nil), m.stops...)
}

// Subscriptions returns the number of open Subscribe calls.
func (m *Manager) Subscriptions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.subs)
}

// AwaitCalls waits until a method was called at least n times.
func (m *Manager) AwaitCalls(ctx context.Context, method string, n int) {
	m.t.Helper()
	m.await(ctx, method+" to be called", func() bool { return m.calls[method] >= n })
}

// AwaitWorkspace waits until a workspace was started.
func (m *Manager) AwaitWorkspace(ctx context.Context, id string) {
	m.t.Helper()
	m.await(ctx, "a start of workspace "+id, func() bool { return m.workspaces[id] != nil })
}

// AwaitSubscription waits until there is a subscription.
func (m *Manager) AwaitSubscription(ctx context.Context) {
	m.t.Helper()
	m.await(ctx, "a subscription", func() bool { return len(m.subs) > 0 })
}

func (m *Manager) await(ctx context.Context, what string, is func() bool) {
	m.t.Helper()
	for {
		m.mu.Lock()
		ok, changed := is(), m.changed
		m.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			m.t.Errorf("waited in vain for %s: %v", what, context.Cause(ctx))
			return
		}
	}
}
