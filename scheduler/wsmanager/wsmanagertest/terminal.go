package wsmanagertest

import "context"

// Open gives the task a terminal.
func (w *Workspace) Open() {
	w.change(func() { w.state, w.alias = "running", "term-1" })
}

// Write writes output to the terminal.
func (w *Workspace) Write(p []byte) (int, error) {
	w.change(func() {
		w.total += int64(len(p))
		w.buffer = append(w.buffer, p...)
		if w.keep > 0 && len(w.buffer) > w.keep {
			w.buffer = w.buffer[len(w.buffer)-w.keep:]
		}
		for l := range w.listeners {
			l.queue = append(l.queue, p...)
			l.notify()
		}
	})
	return len(p), nil
}

// Close ends the task. Listeners reach the end of its output.
func (w *Workspace) Close() {
	w.change(func() {
		w.state = "closed"
		for l := range w.listeners {
			l.notify()
		}
	})
}

// Keep limits the output that the terminal keeps for a replay, in bytes.
func (w *Workspace) Keep(n int) { w.change(func() { w.keep = n }) }

// Reset removes the output that the terminal keeps.
func (w *Workspace) Reset() { w.change(func() { w.buffer = nil }) }

// Raw makes listeners receive these bytes instead of output, followed by the end.
func (w *Workspace) Raw(body []byte) { w.change(func() { w.raw = body }) }

// Gone, if on, makes the supervisor return 404 for every request.
func (w *Workspace) Gone(on bool) { w.change(func() { w.gone = on }) }

// NoTerminal makes only the output of the task available.
func (w *Workspace) NoTerminal() { w.change(func() { w.noTerm = true }) }

// Drop breaks the connections of all listeners.
func (w *Workspace) Drop() { w.change(w.drop) }

// Listeners returns the number of open connections that read output.
func (w *Workspace) Listeners() int {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return len(w.listeners)
}

// Listens returns the number of requests to read output.
func (w *Workspace) Listens() int {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.listens
}

// Refused returns the number of requests with a wrong token.
func (w *Workspace) Refused() int {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.refused
}

// AwaitTasks waits until the tasks were requested at least n times.
func (w *Workspace) AwaitTasks(ctx context.Context, n int) {
	w.s.t.Helper()
	w.await(ctx, "a question for the tasks", func() bool { return w.tasks >= n })
}

// AwaitListener waits until there is a listener that has not been dropped.
func (w *Workspace) AwaitListener(ctx context.Context) {
	w.s.t.Helper()
	w.await(ctx, "a listener", func() bool { return len(w.listeners) > 0 })
}

// AwaitListens waits until there were at least n requests to read output.
func (w *Workspace) AwaitListens(ctx context.Context, n int) {
	w.s.t.Helper()
	w.await(ctx, "somebody to listen", func() bool { return w.listens >= n })
}

func (w *Workspace) change(f func()) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	f()
	w.s.wake()
}

func (w *Workspace) await(ctx context.Context, what string, is func() bool) {
	w.s.t.Helper()
	for {
		w.s.mu.Lock()
		ok, changed := is(), w.s.changed
		w.s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			w.s.t.Errorf("waited in vain for %s of workspace %s: %v", what, w.id, context.Cause(ctx))
			return
		}
	}
}

func (l *listener) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
