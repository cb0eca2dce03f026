package peer

import (
	"errors"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Create opens the log of an attempt whose owner is this node, and starts to copy it to the other
// nodes that hold it. The secrets s and the refs of b are redacted.
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

// Fence makes this node's copy of a log refuse all writers of a smaller epoch. It returns the
// length and the checksum of the copy.
func (l *Logs) Fence(key logs.Key, epoch uint64) (length int64, checksum string, err error) {
	return l.store.Fence(key, epoch)
}

// Copy starts to copy this node's copy of a log to other nodes. The caller closes the feed.
func (l *Logs) Copy(key logs.Key, epoch uint64, copies []*imagebuilderv1.LogCopy) (*logs.Feed, error) {
	base, err := l.store.Durable(key)
	if err != nil && !errors.Is(err, logs.ErrNotFound) {
		return nil, err
	}
	return l.copies.Start(key, epoch, copiesOf(copies), base), nil
}

// Completed reports whether this node's copy of a log is known to be complete. It waits for no disk.
func (l *Logs) Completed(key logs.Key) bool { return l.store.Completed(key) }

// writer is the log of a live attempt.
type writer struct {
	*logs.Writer
	secrets *logs.Redactor
	feed    *logs.Feed
	sealed  func() bool // reports whether the state says that the log is sealed
}

var _ logs.AttemptWriter = writer{}

// Redact removes the secrets of the build from a text about the attempt.
func (w writer) Redact(text string) string { return w.secrets.String(text) }

// Feed returns the copying of the log, or nil if this node holds the only copy.
func (w writer) Feed() *logs.Feed { return w.feed }

// Close ends the copying. Readers of a log that is not sealed then look for its next owner.
func (w writer) Close() {
	if w.feed != nil {
		w.feed.Close()
	}
	if !w.sealed() { // a sealed log is about to be completed, and readers see its end
		w.Leave()
	}
}

func copiesOf(in []*imagebuilderv1.LogCopy) (out []logs.Copy) {
	for _, c := range in {
		out = append(out, logs.Copy{Node: c.Node, StoreID: c.StoreId})
	}
	return out
}
