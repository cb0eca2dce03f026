package wsmanager_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
)

// logging starts a Run whose workspace has an open terminal.
func (e *env) logging() (*result, *wsmanagertest.Workspace) {
	e.t.Helper()
	r := e.begin(dockerfileWorkload())
	ws := e.sup.Workspace(buildID)
	ws.Open()
	return r, ws
}

// finish ends the task and the workspace with success.
func (e *env) finish(r *result, ws *wsmanagertest.Workspace) {
	e.t.Helper()
	ws.Close()
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
}

// lines returns n different lines.
func lines(from, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "line %d of the output\n", from+i)
	}
	return b.String()
}

func Test_Logs_NotYet(t *testing.T) {
	e := newEnv(t)
	ws := e.sup.Workspace(buildID)
	ws.Gone(true) // 404
	r := e.begin(dockerfileWorkload())
	ws.AwaitTasks(e.ctx, 0)
	ws.Gone(false)
	ws.AwaitTasks(e.ctx, 3) // the alias is empty
	ws.Open()
	_, _ = ws.Write([]byte("now\n"))
	r.sink.await(t, e.ctx, "now\n")
	e.finish(r, ws)
}

func Test_Logs_AreCompleteBeforeRunReturns(t *testing.T) {
	e := newEnv(t)
	r, ws := e.logging()
	_, _ = ws.Write([]byte(lines(0, 10)))
	ws.AwaitListener(e.ctx)
	e.img.push(ref, baseRef)
	e.stopped()
	_, _ = ws.Write([]byte(lines(10, 1000)))
	ws.Close()
	r.succeeds(built("base-images"))
	if r.sink.text() != lines(0, 1010) {
		t.Errorf("log of %d bytes, want %d", len(r.sink.text()), len(lines(0, 1010)))
	}
}

// Test_Logs_OfAFailure checks the log of a failed build, which matters most.
func Test_Logs_OfAFailure(t *testing.T) {
	e := newEnv(t)
	r, ws := e.logging()
	_, _ = ws.Write([]byte("cannot find it\n"))
	ws.Close()
	e.stopped(func(s *wsman.WorkspaceStatus) { s.Conditions.HeadlessTaskFailed = "exit code 1" })
	r.fails(builds.BlameUser, "exit code 1")
	if r.sink.text() != "cannot find it\n" {
		t.Errorf("log %q", r.sink.text())
	}
}

// Test_Logs_GoOnAfterABrokenConnection uses a terminal that replays everything.
func Test_Logs_GoOnAfterABrokenConnection(t *testing.T) {
	e := newEnv(t)
	r, ws := e.logging()
	want := ""
	for i := range 20 {
		_, _ = ws.Write([]byte(lines(i*10, 10)))
		want += lines(i*10, 10)
		if i%2 == 0 {
			r.sink.await(t, e.ctx, want)
		}
		ws.AwaitListener(e.ctx)
		ws.Drop()
	}
	r.sink.await(t, e.ctx, want)
	e.finish(r, ws)
	if r.sink.text() != want {
		t.Error("the log changed at its end")
	}
}

// Test_Logs_GoOnInTheLatestPart uses a terminal that replays less than was read.
func Test_Logs_GoOnInTheLatestPart(t *testing.T) {
	e := newEnv(t, func(o *wsmanager.Options) { o.TerminalBuffer = 8 << 10 })
	r, ws := e.logging()
	ws.Keep(8 << 10)
	want := ""
	for i := range 20 {
		_, _ = ws.Write([]byte(lines(i*100, 100)))
		want += lines(i*100, 100)
		r.sink.await(t, e.ctx, want)
		ws.AwaitListener(e.ctx)
		ws.Drop()
	}
	e.finish(r, ws)
	if r.sink.text() != want {
		t.Error("the log changed at its end")
	}
}

// Test_Logs_AGapIsMarked uses a terminal that gets more output than it keeps while nobody listens.
func Test_Logs_AGapIsMarked(t *testing.T) {
	e := newEnv(t, func(o *wsmanager.Options) { o.TerminalBuffer = 4 << 10 })
	r, ws := e.logging()
	ws.Keep(4 << 10)
	_, _ = ws.Write([]byte(lines(0, 100)))
	r.sink.await(t, e.ctx, lines(0, 100))
	ws.Gone(true)
	ws.Drop()
	_, _ = ws.Write([]byte(lines(100, 1000)))
	ws.Gone(false)
	all := lines(0, 1100)
	r.sink.until(t, e.ctx, func() bool { return strings.HasSuffix(r.sink.log.String(), "line 1099 of the output\n") })
	got := r.sink.text()
	head, tail, ok := strings.Cut(got, "<image-builder: the output of the build was read again; here it may repeat or lack some lines>")
	if !ok || head != lines(0, 100) || !strings.HasSuffix(all, tail) {
		t.Errorf("log %d bytes, marker %v", len(got), ok)
	}
	e.finish(r, ws)
}

// Test_Logs_AnotherTerminalIsMarked uses a terminal that has lost its output.
func Test_Logs_AnotherTerminalIsMarked(t *testing.T) {
	e := newEnv(t)
	r, ws := e.logging()
	_, _ = ws.Write([]byte("before\n"))
	r.sink.await(t, e.ctx, "before\n")
	ws.Reset()
	ws.AwaitListener(e.ctx)
	ws.Drop()
	_, _ = ws.Write([]byte("after\n"))
	r.sink.await(t, e.ctx, "before\n<image-builder: the output of the build was read again; here it may repeat or lack some lines>after\n")
	e.finish(r, ws)
}

// Test_Logs_AnAdopterGoesOn uses an owner that knows only the length of the stored output.
func Test_Logs_AnAdopterGoesOn(t *testing.T) {
	e := newEnv(t)
	first, ws := e.logging()
	_, _ = ws.Write([]byte("one\ntwo\n"))
	first.sink.await(t, e.ctx, "one\ntwo\n")
	first.stop()
	_, _ = first.wait()
	_, _ = ws.Write([]byte("three\n"))
	second := e.runOn(e.runtime(), dockerfileWorkload(), first.sink)
	second.sink.await(t, e.ctx, "one\ntwo\nthree\n")
	ws.AwaitListener(e.ctx)
	ws.Drop() // by now the skipped output is known
	_, _ = ws.Write([]byte("four\n"))
	second.sink.await(t, e.ctx, "one\ntwo\nthree\nfour\n")
	e.m.AwaitSubscription(e.ctx)
	ws.Close()
	e.img.push(ref, baseRef)
	e.stopped()
	e.m.DropSubscriptions()
	second.succeeds(built("base-images"))
	if n := e.m.Calls(wsStart); n != 1 {
		t.Errorf("%d starts, want 1", n)
	}
}

// Test_Logs_AnAdopterMarksWhatItCannotProve checks that the log has a marker where the output may
// not be continuous.
func Test_Logs_AnAdopterMarksWhatItCannotProve(t *testing.T) {
	for name, c := range map[string]struct{ keep, stored int }{
		"a full terminal":          {keep: 1 << 10, stored: 100},
		"less than was stored":     {keep: 100, stored: 5000},
		"another terminal, closed": {keep: 50, stored: 100},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t, func(o *wsmanager.Options) { o.TerminalBuffer = 1 << 10 })
			first, ws := e.logging()
			ws.Keep(c.keep)
			all := lines(0, 500)
			_, _ = ws.Write([]byte(all))
			first.sink.until(t, e.ctx, func() bool { return first.sink.offset > 0 })
			first.stop()
			_, _ = first.wait()
			s := newSink()
			s.offset = int64(c.stored)
			second := e.runOn(e.rt, dockerfileWorkload(), s)
			s.until(t, e.ctx, func() bool {
				_, tail, ok := strings.Cut(s.log.String(), "lack some lines>")
				return ok && tail == all[len(all)-c.keep:]
			})
			e.finish(second, ws)
		})
	}
}

func Test_Logs_OfATaskWithoutTerminal(t *testing.T) {
	e := newEnv(t)
	e.sup.Workspace(buildID).NoTerminal()
	r, ws := e.logging()
	_, _ = ws.Write([]byte("from the task\n"))
	r.sink.await(t, e.ctx, "from the task\n")
	e.finish(r, ws)
}

// plainSink has no markers of its own.
type plainSink struct{ workload.Sink }

func Test_Logs_MarkerInThePlainOutput(t *testing.T) {
	e := newEnv(t)
	s := newSink()
	s.offset = 100
	first, ws := e.logging()
	_, _ = ws.Write([]byte("output\n"))
	first.sink.await(t, e.ctx, "output\n")
	first.stop()
	_, _ = first.wait()
	done := make(chan error, 1)
	go func() {
		_, err := e.rt.Run(e.ctx, dockerfileWorkload(), plainSink{s})
		done <- err
	}()
	s.await(t, e.ctx, "image-builder: the output of the build was read again; here it may repeat or lack some lines\noutput\n")
	ws.Close()
	e.img.push(ref, baseRef)
	e.stopped()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
