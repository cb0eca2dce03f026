package peer

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func copiesOf(in []*imagebuilderv1.LogCopy) (out []logs.Copy) {
	for _, c := range in {
		out = append(out, logs.Copy{Node: c.Node, StoreID: c.StoreId})
	}
	return out
}

// Create opens the log of an attempt for its owner, which is this node, and begins
// to copy it.
func (l *Logs) Create(a *imagebuilderv1.Attempt, b *imagebuilderv1.Build, s *buildsv1.Secrets) (logs.AttemptWriter, error) {
	values := secrets.Values(s)
	key := logs.Key{Build: b.Id, Attempt: a.Number}
	copies := copiesOf(builds.CopiesOf(a))
	w, err := l.store.Create(key, a.Epoch, logs.NewRedactor(values, logs.RefsToCensor(b.GetRef(), b.GetBaseRef())), len(copies) > 1)
	if err != nil {
		return nil, err
	}
	out := writer{Writer: w, secrets: logs.NewRedactor(values, nil), sealed: func() bool {
		return l.attempt(key).GetLog().GetState() == builds.LogSealed
	}}
	if len(copies) > 1 {
		base, err := l.store.Durable(key)
		if err != nil {
			return nil, err
		}
		out.feed = l.copies.Start(key, a.Epoch, copies, base)
	}
	return out, nil
}

// Fence keeps all former owners from writing the log, and answers what this node
// holds of it.
func (l *Logs) Fence(key logs.Key, epoch uint64) (int64, string, error) {
	return l.store.Fence(key, epoch)
}

// Copy begins to copy what this node holds of a log to other nodes.
func (l *Logs) Copy(key logs.Key, epoch uint64, copies []*imagebuilderv1.LogCopy) (*logs.Feed, error) {
	base, err := l.store.Durable(key)
	if err != nil && !errors.Is(err, logs.ErrNotFound) {
		return nil, err
	}
	return l.copies.Start(key, epoch, copiesOf(copies), base), nil
}

// Complete ends this node's copy of a log.
func (l *Logs) Complete(key logs.Key, length int64) error { return l.store.Complete(key, length) }

// Completed reports whether this node's copy of a log is complete.
func (l *Logs) Completed(key logs.Key) bool {
	_, sealed, err := l.store.Length(key)
	return err == nil && sealed
}

// writer is a log together with what redacts texts about its attempt.
type writer struct {
	*logs.Writer
	secrets *logs.Redactor
	feed    *logs.Feed
	sealed  func() bool // the state says where the log ends
}

func (w writer) Redact(text string) string { return w.secrets.String(text) }

func (w writer) Feed() *logs.Feed { return w.feed }

func (w writer) Close() {
	if w.feed != nil {
		w.feed.Close()
	}
	if !w.sealed() { // else it is about to be completed, and readers see its end
		w.Leave()
	}
}

// transport brings appends to other nodes over the peer port.
type transport struct{ node Node }

var _ logs.Transport = transport{}

func (t transport) Append(ctx context.Context, to logs.Copy, batch []logs.Append) ([]logs.Ack, error) {
	conn, err := t.node.Conn(to.Node, to.StoreID)
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
