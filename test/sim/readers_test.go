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

// observedLogs are the contents of logs as readers have received them. They must only grow.
type observedLogs struct {
	mu   sync.Mutex
	logs map[logs.Key][]byte
	errs []error
}

// observe records bytes that a reader has received from a node. It returns an error if they
// contradict earlier bytes.
func (s *observedLogs) observe(key logs.Key, at int64, content []byte, node string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.logs[key]
	if at > int64(len(have)) {
		return nil // no reader has received the bytes before
	}
	again := min(int64(len(content)), int64(len(have))-at)
	if !bytes.Equal(have[at:at+again], content[:again]) {
		err := fmt.Errorf("the log of attempt %d of build %s changed at byte %d: readers received %q before, and now from %s %q", key.Attempt, key.Build, at, have[at:at+again], node, content[:again])
		s.errs = append(s.errs, err)
		return err
	}
	s.logs[key] = append(have, content[again:]...)
	return nil
}

// err returns all errors of observe.
func (s *observedLogs) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.errs...)
}

// stream is the server side of one call of BuildLogs.
type stream struct {
	grpc.ServerStream // nil: its methods are not called
	ctx               context.Context
	take              func(*imagebuilderv1.BuildLogsResponse) error
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Send(r *imagebuilderv1.BuildLogsResponse) error { return s.take(r) }

// position is the next byte of a reader.
type position struct {
	attempt uint32
	offset  int64
}

// readLogs reads the log of a build on one node from a position on, until the stream ends, and
// advances the position.
func (w *world) readLogs(ctx context.Context, n *machine, r *running, id string, at *position, follow bool) error {
	return r.api().BuildLogs(&imagebuilderv1.BuildLogsRequest{Build: &imagebuilderv1.BuildLogsRequest_Id{Id: id}, Attempt: at.attempt, Offset: at.offset, Follow: follow},
		&stream{ctx: ctx, take: func(res *imagebuilderv1.BuildLogsResponse) error {
			if res.Marker {
				w.count("a reader received a line of the service itself")
				return nil
			}
			if res.Attempt != at.attempt || res.Offset != at.offset {
				return fmt.Errorf("build %s: byte %d of attempt %d was requested, %s sends byte %d of attempt %d", id, at.offset, at.attempt, n.name, res.Offset, res.Attempt)
			}
			at.offset += int64(len(res.Content))
			return w.observed.observe(logs.Key{Build: id, Attempt: res.Attempt}, res.Offset, res.Content, n.name)
		}})
}

// reader reads the logs of random builds until ctx ends. It reads each log through several nodes,
// to its end or for a random time.
func (w *world) reader(ctx context.Context) {
	for wait(ctx, time.Duration(200+w.intn(2000))*time.Millisecond) {
		ids := w.acknowledged()
		if len(ids) == 0 {
			continue
		}
		id := ids[max(0, len(ids)-1-w.intn(10))] // mostly a recent build, which still runs
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
			stop := context.AfterFunc(r.ctx, done) // the connection ends with the process
			before := at
			err := w.readLogs(call, n, r, id, &at, follow)
			stop()
			done()
			if err == nil || status.Code(err) == codes.NotFound {
				break
			}
			if at != before {
				w.count("a reader continued at another node")
			}
			wait(session, 50*time.Millisecond)
		}
		cancel()
	}
}

// checkLogs reads the log of every attempt of the acknowledged builds on every node. It is called
// after all faults are healed and all builds have ended: every log must be complete, and the same
// on all nodes.
func (w *world) checkLogs(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for _, id := range w.acknowledged() {
		b := w.nodes[0].alive().store().Build(id).GetBuild()
		for i, a := range b.GetAttempts() {
			key := logs.Key{Build: id, Attempt: a.Number}
			// The log of an attempt that has just ended may still be in the process of sealing.
			for a.Log.GetState() == builds.LogSealing && wait(ctx, time.Second) {
				a = w.nodes[0].alive().store().Build(id).GetBuild().Attempts[i]
			}
			if a.Log.GetState() != builds.LogSealed {
				return fmt.Errorf("the log of attempt %d of build %s, which ended as %s, is %s", a.Number, id, a.Phase, a.Log.GetState())
			}
			for _, n := range w.nodes {
				at := position{attempt: a.Number}
				for {
					err := w.readLogs(ctx, n, n.alive(), id, &at, true)
					if err == nil {
						break
					}
					if status.Code(err) != codes.Unavailable || !wait(ctx, 100*time.Millisecond) {
						return fmt.Errorf("read the log of attempt %d of build %s on %s: %w", a.Number, id, n.name, err)
					}
				}
				if at.offset != a.Log.Length {
					return fmt.Errorf("the log of attempt %d of build %s has %d bytes, but %s returns %d", a.Number, id, a.Log.Length, n.name, at.offset)
				}
			}
			if err := w.checkContent(a, workload.Name(id, a.Number), string(w.observed.logs[key])); err != nil {
				return err
			}
		}
	}
	return w.observed.err()
}

// checkContent compares the log of an attempt with the output of its workload. The log has no gap.
// That of a successful attempt has all the output and nothing else. That of another attempt may end
// earlier, and may have a last line of the service.
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
			return fmt.Errorf("workload %s wrote %d lines and succeeded, its log has %d lines and %q", name, n, i, rest)
		}
		return nil
	}
	// An owner writes the line before it commits the end. If it is killed in between, the next
	// owner writes another one.
	if at := strings.Index(rest, "attempt failed: "); at >= 0 {
		message := rest[at:]
		rest = rest[:at]
		for l := range strings.Lines(message) {
			if !strings.HasPrefix(l, "attempt failed: ") {
				return fmt.Errorf("the log of workload %s (%s) continues after %d lines with %q", name, a.Phase, i, message)
			}
		}
	}
	if !strings.HasPrefix(line(name, i), rest) {
		return fmt.Errorf("the log of workload %s (%s) continues after %d lines with %q", name, a.Phase, i, rest)
	}
	return nil
}
