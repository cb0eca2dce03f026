package wsmanagertest

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// Access makes workspaces tell this address and token.
func (m *Manager) Access(f func(id string) (url, token string)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.access = f
}

// OnStart is called after a workspace was made and before StartWorkspace
// returns; an error is returned instead.
func (m *Manager) OnStart(f func(ctx context.Context, req *wsman.StartWorkspaceRequest) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onStart = f
}

// OnStop is called when a workspace that exists shall stop.
func (m *Manager) OnStop(f func(req *wsman.StopWorkspaceRequest)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.onStop = f
}

// Fail makes the next calls of a method fail; all if times is negative.
func (m *Manager) Fail(method string, err error, times int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail[method] = &failure{err, times}
}

// Mute keeps updates from being sent: they are lost.
func (m *Manager) Mute(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.muted = on
}

// Hold keeps updates back until Release.
func (m *Manager) Hold() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holding = true
}

// Release sends what was held back, in the order that the given function makes
// of it, if any.
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

// Strip takes parts out of the updates that are sent.
func (m *Manager) Strip(f func(*wsman.WorkspaceStatus)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.strip = f
}

// DropSubscriptions ends all Subscribe calls that run.
func (m *Manager) DropSubscriptions() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.subs {
		close(s.drop)
		delete(m.subs, s)
	}
}

// Update changes the true status of a workspace and publishes it. The version
// grows.
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

// Publish sends any status, whatever the true one is.
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

// Forget removes a workspace without a word.
func (m *Manager) Forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.workspaces, id)
}

// Status answers the true status of a workspace, nil if there is none.
func (m *Manager) Status(id string) *wsman.WorkspaceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.workspaces[id] == nil {
		return nil
	}
	return proto.CloneOf(m.workspaces[id])
}

// Calls answers how often a method was called.
func (m *Manager) Calls(method string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[method]
}

// Starts answers the requests to start workspaces, refused ones included.
func (m *Manager) Starts() []*wsman.StartWorkspaceRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*wsman.StartWorkspaceRequest(nil), m.starts...)
}

// Stops answers the requests to stop workspaces.
func (m *Manager) Stops() []*wsman.StopWorkspaceRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*wsman.StopWorkspaceRequest(nil), m.stops...)
}

// Subscriptions answers how many Subscribe calls run.
func (m *Manager) Subscriptions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.subs)
}

// AwaitCalls waits until a method was called that often.
func (m *Manager) AwaitCalls(ctx context.Context, method string, n int) {
	m.t.Helper()
	m.await(ctx, method+" to be called", func() bool { return m.calls[method] >= n })
}

// AwaitWorkspace waits until a workspace was started.
func (m *Manager) AwaitWorkspace(ctx context.Context, id string) {
	m.t.Helper()
	m.await(ctx, "a start of workspace "+id, func() bool { return m.workspaces[id] != nil })
}

// AwaitSubscription waits until somebody is subscribed.
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
