package owner

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// verifyTimeout limits reading a copy on another node.
const verifyTimeout = 2 * time.Minute

// dropDamaged removes this node's copies of the given complete logs, which are damaged. It keeps a
// copy as long as no other node has a sound one. repairLogs then makes a new copy.
func (o *Owner) dropDamaged(ctx context.Context, keys []logs.Key) {
	for _, key := range keys {
		if ctx.Err() != nil {
			return
		}
		o.dropIfReplaceable(ctx, key)
	}
}

// dropIfReplaceable removes this node's copy of a log once it has read a sound copy on another
// node.
func (o *Owner) dropIfReplaceable(ctx context.Context, key logs.Key) {
	b := o.opts.Store.View().Build(key.Build).GetBuild()
	if key.Attempt == 0 || int(key.Attempt) > len(b.GetAttempts()) {
		return // the state has removed the build, and Reap removes the log
	}
	a := b.Attempts[key.Attempt-1]
	copies := builds.CopiesOf(a)
	if a.Log.GetState() != builds.LogSealed || !builds.HasCopy(copies, o.opts.Node, o.opts.StoreID) {
		return
	}
	log := o.opts.Log.With("build", key.Build, "attempt", key.Attempt)
	var sound *imagebuilderv1.LogCopy
	for _, c := range o.otherCopies(a) {
		err := o.verify(ctx, key, a.Log, c)
		if err == nil {
			sound = c
			break
		}
		log.Warn("this node's copy of a log is damaged, and another one cannot be read", "node", c.Node, "err", err)
	}
	if sound == nil {
		return
	}
	_, err := o.commit(ctx, &buildsv1.SetLogCopies{
		BuildId: key.Build, Attempt: a.Number, Epoch: a.Epoch, Former: copies,
		Copies: without(copies, []logs.Copy{{Node: o.opts.Node, StoreID: o.opts.StoreID}}),
	})
	if err != nil {
		log.Warn("cannot give up a damaged copy of a log, will try again", "err", err)
		return
	}
	if err := o.opts.DamagedLogs.RemoveDamaged(key); err != nil {
		log.Warn("cannot remove a damaged copy of a log", "err", err)
		return
	}
	log.Info("gave up a damaged copy of a log", "sound", sound.Node)
}

// verify reads a copy of a complete log on another node, within verifyTimeout.
func (o *Owner) verify(ctx context.Context, key logs.Key, sealed *imagebuilderv1.AttemptLog, at *imagebuilderv1.LogCopy) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	return o.opts.DamagedLogs.VerifyCopy(ctx, key, sealed, at)
}
