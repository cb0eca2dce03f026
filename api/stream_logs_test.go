package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// awayLogs is a LogReader whose logs cannot be opened before a time.
type awayLogs struct {
	err   error
	until time.Time
}

func (k awayLogs) OpenLog(context.Context, string, uint32, int64, bool) (logs.Stream, error) {
	if time.Now().Before(k.until) {
		return nil, k.err
	}
	return &lineStream{}, nil
}

// lineStream is a complete log of one line.
type lineStream struct{ read bool }

func (*lineStream) Length() int64 { return 5 }
func (*lineStream) Close() error  { return nil }
func (l *lineStream) Next(context.Context) ([]byte, int64, error) {
	if l.read {
		return nil, 0, io.EOF
	}
	l.read = true
	return []byte("line\n"), 0, nil
}

// logSink is the server side of a stream of logs. It collects the content.
type logSink struct {
	grpc.ServerStream
	ctx     context.Context
	content []byte
	markers int
}

func (s *logSink) Context() context.Context { return s.ctx }
func (s *logSink) Send(m *imagebuilderv1.BuildLogsResponse) error {
	if m.Marker {
		s.markers++
		return nil
	}
	s.content = append(s.content, m.Content...)
	return nil
}

// Test_BuildLogs_AnAbsentLogIsNoEmptyOne reads a complete log whose nodes do not respond or do not
// have it. The reader waits and then gets UNAVAILABLE. It never gets the end of an empty log.
func Test_BuildLogs_AnAbsentLogIsNoEmptyOne(t *testing.T) {
	for name, err := range map[string]error{
		"no node responds":                  builds.ErrLogAway,
		"one node does not have it":         fmt.Errorf("%w: %w", builds.ErrLogAway, errors.Join(builds.ErrNotFound)),
		"all nodes respond and none has it": builds.ErrNotFound,
	} {
		for _, away := range []time.Duration{10 * time.Second, time.Hour} {
			t.Run(fmt.Sprint(name, " for ", away), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := buildstest.NewMachine(t)
					id := m.Create("r:1").Build.Id
					epoch := m.Assign(id)
					m.Report(id, epoch, builds.Pushing, "sha256:d")
					m.Finish(id, epoch, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:d", LogLength: 5})
					svc := api.NewService(api.ServiceOptions{Store: m.Store, Raft: &localRaft{m: m}, Logs: awayLogs{err, time.Now().Add(away)}})
					s := &logSink{ctx: t.Context()}
					got := api.Native{Service: svc}.BuildLogs(&imagebuilderv1.BuildLogsRequest{
						Build: &imagebuilderv1.BuildLogsRequest_Id{Id: id}, Attempt: 1, Follow: true,
					}, s)
					want, content := codes.OK, "line\n"
					if away > time.Minute {
						want, content = codes.Unavailable, ""
					}
					if status.Code(got) != want || string(s.content) != content || s.markers > 0 {
						t.Errorf("got %v with %q and %d markers, want %v with %q", got, s.content, s.markers, want, content)
					}
				})
			})
		}
	}
}

// leaderless is the replicated log of a node that reaches no leader.
type leaderless struct{ *localRaft }

func (leaderless) ReadIndex(ctx context.Context) (uint64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// Test_BuildLogs_DamagedWithoutALeader reads a log whose known copies are all damaged. Without a leader
// it is not known whether there is a new copy: the reader gets UNAVAILABLE after a bounded time. With
// a leader it gets DATA_LOSS.
func Test_BuildLogs_DamagedWithoutALeader(t *testing.T) {
	for want, raft := range map[codes.Code]func(*localRaft) api.Raft{
		codes.Unavailable: func(l *localRaft) api.Raft { return leaderless{l} },
		codes.DataLoss:    func(l *localRaft) api.Raft { return l },
	} {
		for _, follow := range []bool{false, true} {
			t.Run(fmt.Sprint(want, " follow ", follow), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					m := buildstest.NewMachine(t)
					id := m.Create("r:1").Build.Id
					m.Succeed(id)
					damaged := awayLogs{fmt.Errorf("%w: both", builds.ErrLogDamaged), time.Now().Add(24 * time.Hour)}
					svc := api.NewService(api.ServiceOptions{Store: m.Store, Raft: raft(&localRaft{m: m}), Logs: damaged})
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					begin := time.Now()
					err := api.Native{Service: svc}.BuildLogs(&imagebuilderv1.BuildLogsRequest{
						Build: &imagebuilderv1.BuildLogsRequest_Id{Id: id}, Attempt: 1, Follow: follow,
					}, &logSink{ctx: ctx})
					if status.Code(err) != want || time.Since(begin) > 30*time.Second {
						t.Errorf("after %s: %v, want %s", time.Since(begin), err, want)
					}
				})
			})
		}
	}
}
