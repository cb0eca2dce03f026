package owner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// diskFullPause is the time between the discovery of a full log disk and the end of the attempt.
// Within it the leader pings this node and learns that it accepts no builds. So the leader assigns
// the next attempt to another node.
const diskFullPause = 2 * time.Second

// failure returns the end of an attempt that did not succeed because of err.
func (at *attempt) failure(ctx context.Context, err error) *buildsv1.FinishAttempt {
	node := at.owner.opts.Node
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errStopRequested) || errors.Is(err, builds.ErrStopping):
		return &buildsv1.FinishAttempt{Phase: builds.Cancelled, Message: "the build was stopped"}
	case errors.Is(cause, errShutdown):
		return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Uncounted: true, Message: fmt.Sprintf("node %s shut down while the attempt ran", node)}
	case errors.Is(cause, errLease):
		return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Uncounted: true, Message: fmt.Sprintf("node %s heard no leader, or made no progress, for longer than its lease, and stopped the attempt", node)}
	}
	var f *workload.Failure
	if errors.As(err, &f) {
		return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: f.Blame, Message: f.Message}
	}
	return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Message: err.Error()}
}

// blameDisk changes the end of an attempt whose log could not be written because the disk is full.
// The end is then not counted, because another node may have room. blameDisk blocks for
// diskFullPause.
func (at *attempt) blameDisk(ctx context.Context, end *buildsv1.FinishAttempt, err error) *buildsv1.FinishAttempt {
	if errors.Is(err, logs.ErrNoSpace) && !end.Uncounted {
		ctxutil.Sleep(ctx, diskFullPause)
		end.Uncounted = true
		end.Message = fmt.Sprintf("node %s cannot write logs: %s", at.owner.opts.Node, end.Message)
	}
	return end
}

// finish seals the log and commits the end of the attempt. w is nil if the log could not be opened.
// finish waits up to SealTimeout until all copies have the whole log. After that, the log ends with
// the last byte that all copies have. finish does not end with ctx: it commits the end of a
// cancelled attempt too. While there is no leader it retries, because a build whose end is not
// committed would never end. Only on a node that shuts down, finish gives up after finishTimeout.
// The next process of the node then ends the attempt when it starts.
func (at *attempt) finish(ctx context.Context, w logs.AttemptWriter, steps []*imagebuilderv1.Step, c *buildsv1.FinishAttempt) error {
	ctx, cancel := at.outlasting(ctx)
	defer cancel()
	c.BuildId, c.Attempt, c.Epoch = at.key.build, at.key.attempt, at.key.epoch
	log := at.logger()
	if w != nil {
		c.Message, c.Steps = w.Redact(c.Message), redactSteps(w, steps)
		if c.Phase != builds.Succeeded && c.Message != "" {
			_ = w.Marker("attempt failed: " + c.Message)
		}
		seal, done := context.WithTimeout(ctx, at.owner.opts.SealTimeout)
		var err error
		c.LogLength, c.LogChecksum, err = sealTraced(seal, w)
		if done(); err != nil {
			log.Error("cannot complete the log of an attempt", "err", err)
			c.LogUnknown = c.LogChecksum == "" // another copy seals the log
			var early *logs.EndError
			if c.Phase == builds.Succeeded {
				c.Phase, c.Blame, c.Message = builds.Failed, builds.BlameInfrastructure, "complete the log: "+err.Error()
				c = at.blameDisk(ctx, c, err)
			} else if !c.LogUnknown && errors.As(err, &early) {
				c.Message = strings.TrimSpace(fmt.Sprintf("%s (the last %d bytes of the log are lost)", c.Message, early.Missing))
			}
		}
	}
	c.Message = toUTF8(c.Message)
	traceEnd(ctx, c)
	if _, err := at.owner.commit(ctx, c); err != nil {
		log.Warn("cannot commit the end of an attempt", "err", err)
		return err
	}
	log.Info("attempt ended", "phase", c.Phase.String(), "blame", c.Blame.String(), "message", c.Message)
	return nil
}

// redactSteps returns the steps without secrets, as they may be committed.
func redactSteps(w logs.AttemptWriter, steps []*imagebuilderv1.Step) []*imagebuilderv1.Step {
	out := make([]*imagebuilderv1.Step, len(steps))
	for i, s := range steps {
		c := proto.CloneOf(s)
		c.Name, c.Error = toUTF8(w.Redact(c.Name)), toUTF8(w.Redact(c.Error))
		out[i] = c
	}
	return out
}

// toUTF8 replaces invalid UTF-8 in a text. A command with such a text cannot be encoded, so no
// retry would commit it.
func toUTF8(text string) string { return strings.ToValidUTF8(text, "?") }
