package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// shown is what readers have seen of each log: it must only grow.
type observedLogs struct {
	mu   sync.Mutex
	logs map[logs.Key][]byte
	errs []error
}

// see takes bytes that a reader was sent, and answers what is wrong with them.
func (s *observedLogs) observe(key logs.Key, at int64, content []byte, node string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.logs[key]
	if at > int64(len(have)) {
		return nil // nobody has read what is before
	}
	again := min(int64(len(content)), int64(len(have))-at)
	if !bytes.Equal(have[at:at+again], content[:again]) {
		err := fmt.Errorf("the log of attempt %d of %s changed at byte %d: %q was read, then on %s %q", key.Attempt, key.Build, at, have[at:at+again], node, content[:again])
		s.errs = append(s.errs, err)
		return err
	}
	s.logs[key] = append(have, content[again:]...)
	return nil
}

func (s *observedLogs) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.errs...)
}

// stream is one call of BuildLogs.
type stream struct {
	grpc.ServerStream // nil: what nobody calls
	ctx               context.Context
	take              func(*imagebuilderv1.BuildLogsResponse) error
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Send(r *imagebuilderv1.BuildLogsResponse) error { return s.take(r) }

// place is how far a reader is.
type position struct {
	attempt uint32
	offset  int64
}

// readLogs reads on one node, from a place on, and moves it.
func (w *world) readLogs(ctx context.Context, n *machine, r *running, id string, at *position, follow bool) error {
	return r.api().BuildLogs(&imagebuilderv1.BuildLogsRequest{Build: &imagebuilderv1.BuildLogsRequest_Id{Id: id}, Attempt: at.attempt, Offset: at.offset, Follow: follow},
		&stream{ctx: ctx, take: func(res *imagebuilderv1.BuildLogsResponse) error {
			if res.Marker {
				w.count("a reader was sent a line of the service's own")
				return nil
			}
			if res.Attempt != at.attempt || res.Offset != at.offset {
				return fmt.Errorf("attempt %d of %s: byte %d of attempt %d was asked for, %s sends byte %d of attempt %d", at.attempt, id, at.offset, at.attempt, n.name, res.Offset, res.Attempt)
			}
			at.offset += int64(len(res.Content))
			return w.observed.observe(logs.Key{Build: id, Attempt: res.Attempt}, res.Offset, res.Content, n.name)
		}})
}

// reader reads logs of builds, each of them through any nodes, to its end or as
// long as it likes.
func (w *world) reader(ctx context.Context) {
	for wait(ctx, time.Duration(200+w.intn(2000))*time.Millisecond) {
		ids := w.acknowledged()
		if len(ids) == 0 {
			continue
		}
		id := ids[max(0, len(ids)-1-w.intn(10))] // mostly one that runs
		if w.intn(4) == 0 {
			id = ids[w.intn(len(ids))]
		}
		at, follow := position{attempt: uint32(1 + w.intn(10)/8)}, w.intn(3) > 0
		session, cancel := context.WithTimeout(ctx, time.Duration(1+w.intn(30))*time.Second)
		for session.Err() == nil {
			n := w.nodes[w.intn(len(w.nodes))]
			r := n.alive()
			if r == nil {
				wait(session, 100*time.Millisecond)
				continue
			}
			call, done := context.WithCancel(session)
			stop := context.AfterFunc(r.ctx, done) // the connection breaks
			before := at
			err := w.readLogs(call, n, r, id, &at, follow)
			stop()
			done()
			if err == nil || status.Code(err) == codes.NotFound {
				break
			}
			if at != before {
				w.count("a reader went on at another node")
			}
			wait(session, 50*time.Millisecond)
		}
		cancel()
	}
}

// judgeLogs reads the log of every attempt of the acknowledged builds on every
// node, after all has healed.
func (w *world) checkLogs(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for _, id := range w.acknowledged() {
		b := w.nodes[0].alive().store().Build(id).GetBuild()
		for i, a := range b.GetAttempts() {
			key := logs.Key{Build: id, Attempt: a.Number}
			// What ended a moment ago may be sealed still.
			for a.Log.GetState() == builds.LogSealing && wait(ctx, time.Second) {
				a = w.nodes[0].alive().store().Build(id).GetBuild().Attempts[i]
			}
			if a.Log.GetState() != builds.LogSealed {
				return fmt.Errorf("the log of attempt %d of %s, which ended as %s, is %s", a.Number, id, a.Phase, a.Log.GetState())
			}
			for _, n := range w.nodes {
				at := position{attempt: a.Number}
				for {
					err := w.readLogs(ctx, n, n.alive(), id, &at, true)
					if err == nil {
						break
					}
					if status.Code(err) != codes.Unavailable || !wait(ctx, 100*time.Millisecond) {
						return fmt.Errorf("read the log of attempt %d of %s on %s: %w", a.Number, id, n.name, err)
					}
				}
				if at.offset != a.Log.Length {
					return fmt.Errorf("the log of attempt %d of %s has %d bytes, %s shows %d", a.Number, id, a.Log.Length, n.name, at.offset)
				}
			}
			if err := w.checkContent(a, workload.WorkloadName(id, a.Number), string(w.observed.logs[key])); err != nil {
				return err
			}
		}
	}
	return w.observed.err()
}

// judgeContent wants what the workload wrote, without a gap: all of it if
// it succeeded, and nothing else but a last line of the service's own.
func (w *world) checkContent(a *imagebuilderv1.Attempt, name, log string) error {
	i, rest := 0, log
	for {
		next, ok := strings.CutPrefix(rest, line(name, i))
		if !ok {
			break
		}
		rest, i = next, i+1
	}
	if a.Phase == builds.Succeeded {
		if n, started := w.workloads.linesOf(name); rest != "" || started && n != i {
			return fmt.Errorf("%s wrote %d lines and succeeded, its log has %d and %q", name, n, i, rest)
		}
		return nil
	}
	// An owner that was killed before its end was committed has said it already.
	if at := strings.Index(rest, "attempt failed: "); at >= 0 {
		message := rest[at:]
		rest = rest[:at]
		for l := range strings.Lines(message) {
			if !strings.HasPrefix(l, "attempt failed: ") {
				return fmt.Errorf("the log of %s (%s) goes on after %d lines with %q", name, a.Phase, i, message)
			}
		}
	}
	if !strings.HasPrefix(line(name, i), rest) {
		return fmt.Errorf("the log of %s (%s) goes on after %d lines with %q", name, a.Phase, i, rest)
	}
	return nil
}
