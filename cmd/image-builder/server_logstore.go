package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/cluster"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
)

// logStore lets the owner loop use this node's logs and their copies on other
// nodes.
type logStore struct {
	store *logs.Store
	rep   *logs.Replicator
	state *builds.Store
}

var _ scheduler.Logs = logStore{}

func copiesOf(in []*imagebuilderv1.LogCopy) (out []logs.Copy) {
	for _, c := range in {
		out = append(out, logs.Copy{Node: c.Node, StoreID: c.StoreId})
	}
	return out
}

func (l logStore) Create(a *imagebuilderv1.Attempt, b *imagebuilderv1.Build, s *buildsv1.Secrets) (scheduler.LogWriter, error) {
	secrets := secretsOf(s)
	key := logs.Key{Build: b.Id, Attempt: a.Number}
	copies := copiesOf(builds.CopiesOf(a))
	w, err := l.store.Create(key, a.Epoch, logs.NewRedactor(secrets, logs.RefsToCensor(b.GetRef(), b.GetBaseRef())), len(copies) > 1)
	if err != nil {
		return nil, err
	}
	out := logWriter{Writer: w, secrets: logs.NewRedactor(secrets, nil), sealed: func() bool {
		return attemptOf(l.state, key.Build, key.Attempt).GetLog().GetState() == builds.LogSealed
	}}
	if len(copies) > 1 {
		base, err := l.store.Durable(key)
		if err != nil {
			return nil, err
		}
		out.feed = l.rep.Start(key, a.Epoch, copies, base)
	}
	return out, nil
}

func (l logStore) Fence(key logs.Key, epoch uint64) (int64, string, error) {
	return l.store.Fence(key, epoch)
}

func (l logStore) Copy(key logs.Key, epoch uint64, copies []*imagebuilderv1.LogCopy) (*logs.Feed, error) {
	base, err := l.store.Durable(key)
	if err != nil && !errors.Is(err, logs.ErrNotFound) {
		return nil, err
	}
	return l.rep.Start(key, epoch, copiesOf(copies), base), nil
}

func (l logStore) Complete(key logs.Key, length int64) error { return l.store.Complete(key, length) }

func (l logStore) Completed(key logs.Key) bool {
	_, sealed, err := l.store.Length(key)
	return err == nil && sealed
}

// logWriter is a log together with what redacts texts about its attempt.
type logWriter struct {
	*logs.Writer
	secrets *logs.Redactor
	feed    *logs.Feed
	sealed  func() bool // the state says where the log ends
}

func (w logWriter) Redact(text string) string { return w.secrets.String(text) }

func (w logWriter) Feed() *logs.Feed { return w.feed }

func (w logWriter) Close() {
	if w.feed != nil {
		w.feed.Close()
	}
	if !w.sealed() { // else it is about to be completed, and readers see its end
		w.Leave()
	}
}

// secretsOf lists every confidential value of a request.
func secretsOf(s *buildsv1.Secrets) [][]byte {
	var secrets [][]byte
	add := func(b *imagebuilderv1.BasicAuth) {
		if b != nil {
			secrets = append(secrets, []byte(b.Password), []byte(b.Username+":"+b.Password))
		}
	}
	for _, c := range s.GetRegistry() {
		add(c)
	}
	add(s.GetGit())
	for _, v := range s.GetBuild() {
		secrets = append(secrets, v)
	}
	return secrets
}

// logTransport brings appends to other nodes over the peer port.
type logTransport struct{ node func() *cluster.Node }

var _ logs.Transport = logTransport{}

func (t logTransport) Append(ctx context.Context, to logs.Copy, batch []logs.Append) ([]logs.Ack, error) {
	conn, err := t.node().Conn(to.Node, to.StoreID)
	if err != nil {
		return nil, err
	}
	req := &buildsv1.AppendLogsRequest{}
	for _, a := range batch {
		req.Appends = append(req.Appends, &buildsv1.LogAppend{
			BuildId: a.Key.Build, Attempt: a.Key.Attempt, Epoch: a.Epoch, Offset: a.Offset, Records: a.Records,
			Cut: a.Cut, Reset_: a.Reset, Visible: a.Visible,
		})
	}
	res, err := buildsv1.NewNodeLogsClient(conn).AppendLogs(ctx, req, grpc.MaxCallSendMsgSize(maxAppend))
	if err != nil {
		return nil, err
	}
	if len(res.GetAcks()) != len(batch) {
		return nil, fmt.Errorf("node %s answered %d acks for %d appends", to.Node, len(res.GetAcks()), len(batch))
	}
	acks := make([]logs.Ack, len(batch))
	for i, a := range res.GetAcks() {
		acks[i].Length = a.Length
		switch a.Refusal {
		case buildsv1.LogRefusal_LOG_REFUSAL_FENCED:
			acks[i].Refusal = logs.ErrFenced
		case buildsv1.LogRefusal_LOG_REFUSAL_FAILED:
			acks[i].Refusal = errors.New(a.Message)
		}
	}
	return acks, nil
}

// maxAppend bounds one message of appended logs, in bytes.
const maxAppend = 32 << 20

// nodeLogs serves the logs of this node to others.
type nodeLogs struct {
	buildsv1.UnimplementedNodeLogsServer
	s *server
}

// AppendLogs appends to copies that are here.
func (n nodeLogs) AppendLogs(ctx context.Context, req *buildsv1.AppendLogsRequest) (*buildsv1.AppendLogsResponse, error) {
	res := &buildsv1.AppendLogsResponse{}
	var batch []logs.Append
	var at []int
	for i, a := range req.GetAppends() {
		res.Acks = append(res.Acks, &buildsv1.LogAck{})
		if n.outdated(a) {
			res.Acks[i].Refusal = buildsv1.LogRefusal_LOG_REFUSAL_FENCED
			continue
		}
		batch, at = append(batch, logs.Append{
			Key: logs.Key{Build: a.BuildId, Attempt: a.Attempt}, Epoch: a.Epoch, Offset: a.Offset, Records: a.Records,
			Cut: a.Cut, Reset: a.Reset_, Visible: a.Visible,
		}), append(at, i)
	}
	for i, ack := range n.s.logs.Append(ctx, batch) {
		out := res.Acks[at[i]]
		out.Length = ack.Length
		switch {
		case errors.Is(ack.Refusal, logs.ErrFenced):
			out.Refusal = buildsv1.LogRefusal_LOG_REFUSAL_FENCED
		case ack.Refusal != nil:
			out.Refusal, out.Message = buildsv1.LogRefusal_LOG_REFUSAL_FAILED, ack.Refusal.Error()
			n.s.log.Warn("cannot take a copy of a log", "build", batch[i].Key.Build, "attempt", batch[i].Key.Attempt, "err", ack.Refusal)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	return res, nil
}

// outdated reports whether the state knows a newer owner than the caller.
func (n nodeLogs) outdated(a *buildsv1.LogAppend) bool {
	at := attemptOf(n.s.store, a.GetBuildId(), a.GetAttempt())
	return at != nil && at.Epoch > a.GetEpoch()
}

// logIdle is for how long a copy that the state does not name is kept: it may
// be on its way to become one.
const logIdle = time.Minute

// reapLogs removes the logs of builds that the state has forgotten, and copies
// that the state does not name.
func (s *server) reapLogs(ctx context.Context) error {
	for pause(ctx, reapInterval) {
		if !s.started.Load() {
			continue
		}
		for _, key := range s.logs.Keys() {
			if s.keepsLog(key) {
				continue
			}
			if err := s.logs.Remove(key); err != nil {
				s.log.Warn("cannot remove a log that nobody needs any more", "build", key.Build, "attempt", key.Attempt, "err", err)
			}
		}
	}
	return nil
}

// probeLogs finds out whether logs can be written again after they could not.
func (s *server) probeLogs(ctx context.Context) error {
	for pause(ctx, 2*time.Second) {
		if s.logs.Trouble() != nil {
			s.logs.Probe()
		}
	}
	return nil
}

func (s *server) keepsLog(key logs.Key) bool {
	a := attemptOf(s.store, key.Build, key.Attempt)
	if a == nil {
		return false
	}
	switch a.GetLog().GetState() {
	case builds.LogLost, builds.LogExpired:
		return false
	}
	return builds.HasCopy(builds.CopiesOf(a), s.cfg.Name, s.node.StoreID()) || s.logs.Idle(key) < logIdle
}

// attemptOf answers an attempt as the local state knows it, or nil.
func attemptOf(store *builds.Store, build string, attempt uint32) *imagebuilderv1.Attempt {
	b := store.Build(build).GetBuild()
	if attempt == 0 || int(attempt) > len(b.GetAttempts()) {
		return nil
	}
	return b.Attempts[attempt-1]
}

// errNotHere is the answer of a node that does not have a log.
var errNotHere = status.Error(codes.NotFound, "this node does not have the log")
