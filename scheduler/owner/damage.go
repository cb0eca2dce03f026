package owner

import (
	"context"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// dropDamaged gives up this node's copies of complete logs that were found to be
// damaged, where another node holds a sound one, which is then copied anew.
func (o *Owner) dropDamaged(ctx context.Context, keys []logs.Key) {
	for _, key := range keys {
		if ctx.Err() != nil {
			return
		}
		o.dropIfDamaged(ctx, key)
	}
}

func (o *Owner) dropIfDamaged(ctx context.Context, key logs.Key) {
	b := o.o.Store.View().Build(key.Build).GetBuild()
	if key.Attempt == 0 || int(key.Attempt) > len(b.GetAttempts()) {
		return // removed soon
	}
	a := b.Attempts[key.Attempt-1]
	copies := builds.CopiesOf(a)
	if a.Log.GetState() != builds.LogSealed || !builds.HasCopy(copies, o.o.Node, o.o.StoreID) {
		return
	}
	log := o.o.Log.With("build", key.Build, "attempt", key.Attempt)
	var sound *imagebuilderv1.LogCopy
	for _, c := range o.otherCopies(a) {
		err := o.whole(ctx, key, a.Log, c)
		if err == nil {
			sound = c
			break
		}
		log.Warn("this node's copy of a log is damaged, and another one cannot be read", "node", c.Node, "err", err)
	}
	if sound == nil {
		return // there may be one later
	}
	_, err := o.commit(ctx, &buildsv1.SetLogCopies{
		BuildId: key.Build, Attempt: a.Number, Epoch: a.Epoch, Former: copies,
		Copies: without(copies, []logs.Copy{{Node: o.o.Node, StoreID: o.o.StoreID}}),
	})
	if err != nil {
		log.Warn("cannot give up a damaged copy of a log, will try again", "err", err)
		return
	}
	if err := o.o.Logs.RemoveDamaged(key); err != nil {
		log.Warn("cannot remove a damaged copy of a log", "err", err)
		return
	}
	log.Info("gave up a damaged copy of a log", "sound", sound.Node)
}

// whole reads another node's copy of a log.
func (o *Owner) whole(ctx context.Context, key logs.Key, l *imagebuilderv1.AttemptLog, at *imagebuilderv1.LogCopy) error {
	ctx, cancel := context.WithTimeout(ctx, repairTime)
	defer cancel()
	return o.o.Logs.Whole(ctx, key, l, at)
}
