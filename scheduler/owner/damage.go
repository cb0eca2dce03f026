package owner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// verifyTimeout limits reading a copy on another node.
const verifyTimeout = 2 * time.Minute

// isDamage reports whether err means that this node's copy of a log is damaged. The store has logged
// that.
func isDamage(err error) bool {
	return errors.Is(err, logs.ErrDamaged) || errors.Is(err, logs.ErrShort)
}

// dropDamaged removes this node's copies of the given complete logs, which are damaged. It keeps a
// copy as long as no other node has an intact one. repairLogs then makes a new copy. reported are
// the logs whose other copies could not be read last time; dropDamaged returns those of this time.
func (o *Owner) dropDamaged(ctx context.Context, keys []logs.Key, reported map[logs.Key]bool) (unreadable map[logs.Key]bool) {
	unreadable = map[logs.Key]bool{}
	for _, key := range keys {
		if ctx.Err() != nil {
			break
		}
		if err := o.dropIfReplaceable(ctx, key); err != nil {
			unreadable[key] = true
			if !reported[key] {
				o.opts.Log.Warn("this node's copy of a log is damaged, and another one cannot be read", "build", key.Build, "attempt", key.Attempt, "err", err)
			}
		}
	}
	return unreadable
}

// dropIfReplaceable removes this node's copy of a log once it has read an intact copy on another
// node. It returns an error if it could read none.
func (o *Owner) dropIfReplaceable(ctx context.Context, key logs.Key) (unreadable error) {
	b := o.opts.Store.View().Build(key.Build).GetBuild()
	if key.Attempt == 0 || int(key.Attempt) > len(b.GetAttempts()) {
		return nil // the state has removed the build, and Reap removes the log
	}
	a := b.Attempts[key.Attempt-1]
	copies := builds.CopiesOf(a)
	if a.Log.GetState() != builds.LogSealed || !builds.HasCopy(copies, o.opts.Node, o.opts.StoreID) {
		return nil
	}
	log := o.opts.Log.With("build", key.Build, "attempt", key.Attempt)
	var sound *imagebuilderv1.LogCopy
	for _, c := range o.otherCopies(a) {
		err := o.verify(ctx, key, a.Log, c)
		if err == nil {
			sound = c
			break
		}
		unreadable = errors.Join(unreadable, fmt.Errorf("node %s: %w", c.Node, err))
	}
	if sound == nil {
		return unreadable
	}
	_, err := o.commit(ctx, &buildsv1.SetLogCopies{
		BuildId: key.Build, Attempt: a.Number, Epoch: a.Epoch, Former: copies,
		Copies: without(copies, []logs.Copy{{Node: o.opts.Node, StoreID: o.opts.StoreID}}),
	})
	if err != nil {
		log.Warn("cannot give up a damaged copy of a log, will try again", "err", err)
		return nil
	}
	if err := o.opts.DamagedLogs.RemoveDamaged(key); err != nil {
		log.Warn("cannot remove a damaged copy of a log", "err", err)
		return nil
	}
	log.Info("gave up a damaged copy of a log", "sound", sound.Node)
	return nil
}

// verify reads a copy of a complete log on another node, within verifyTimeout.
func (o *Owner) verify(ctx context.Context, key logs.Key, sealed *imagebuilderv1.AttemptLog, at *imagebuilderv1.LogCopy) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	return o.opts.DamagedLogs.VerifyCopy(ctx, key, sealed, at)
}
