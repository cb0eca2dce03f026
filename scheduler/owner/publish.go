package owner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// amendTime bounds the repair of tags by a former owner.
const amendTime = time.Minute

// targets are the refs at which a build publishes its image; the first one's
// repository is where its workload pushes.
func targets(b *imagebuilderv1.Build) []string {
	if b.Source.GetDockerfile() != nil {
		return append([]string{b.BaseRef, b.Ref}, b.Source.GetDockerfile().GetExtraTags()...)
	}
	return []string{b.Ref}
}

// registryTime is how long an attempt waits for a registry that its node cannot
// reach, to which its image was pushed before: the next attempt may run elsewhere.
const registryTime = 5 * time.Minute

// errRegistryAway ends an attempt that has waited so long. It does not count.
var errRegistryAway = errors.New("the registry could not be reached by this node for " + registryTime.String())

// patiently asks the registry for something that it does not do before ctx, or the
// node's patience, ends.
func (at *attempt) patiently(ctx context.Context, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, registryTime, errRegistryAway)
	defer cancel()
	err := ask(limited)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(limited), errRegistryAway) {
		err = fmt.Errorf("%w: %w", errRegistryAway, err)
	}
	return err
}

// publish tags the image, whose digest is committed, at all target refs.
func (at *attempt) publish(ctx context.Context, out workload.Outcome) error {
	at.digest = out.Digest
	for i, ref := range targets(at.record.Build) {
		if i > 0 { // the commit of this phase was the check for the first one
			if err := at.stillOwner(ctx); err != nil {
				return err
			}
		}
		at.tagging = append(at.tagging, ref)
		if err := at.patiently(ctx, func(ctx context.Context) error { return at.publishTraced(ctx, out.Repository+"@"+out.Digest, ref) }); err != nil {
			return &workload.Failure{Blame: builds.BlameInfrastructure, Message: "publish the image: " + err.Error(), Err: err}
		}
	}
	return nil
}

// amend makes tags right again that this node may have set after it had lost
// the attempt: its process or a request was held up between the check and the
// effect, which no check can prevent. Where the state has committed another
// digest meanwhile, that one is published, until the state stays the same.
func (at *attempt) amend(ctx context.Context, log *slog.Logger) {
	if len(at.tagging) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), amendTime)
	defer cancel()
	defer context.AfterFunc(at.tasks, func() { time.AfterFunc(finishTime, cancel) })()
	for set := at.digest; ; {
		if err := at.current(ctx); err != nil {
			log.Warn("cannot see whether this node, which lost the attempt, has tagged the image late", "refs", at.tagging, "err", err)
			return
		}
		want := at.committed()
		if want == "" || want == set {
			return
		}
		for _, ref := range at.tagging {
			if err := at.owner.o.Publisher.Publish(ctx, repository(ref)+"@"+want, ref); err != nil {
				log.Error("cannot repair a tag that this node may have set after it had lost the attempt", "ref", ref, "digest", want, "err", err)
				return
			}
		}
		log.Warn("repaired tags that this node may have set after it had lost the attempt", "refs", at.tagging, "digest", want)
		set = want
	}
}

// committed is the digest that the state says is, or will be, at the refs of
// this attempt's build: that of the newest build there, or of this one.
func (at *attempt) committed() (digest string) {
	at.owner.o.Store.Read(func(s *builds.State) {
		if r := s.Newest(at.record.Build.Ref); r != nil {
			digest = r.Build.Digest
		}
		if r := s.Build(at.key.build); r != nil && digest == "" {
			digest = r.Build.Digest
		}
	})
	return digest
}

// stillOwner answers ErrFenced if another node was made the owner.
func (at *attempt) stillOwner(ctx context.Context) error {
	if err := at.current(ctx); err != nil {
		return err
	}
	r := at.owner.o.Store.Build(at.key.build)
	if r == nil || lastKey(r.Build) != at.key || !builds.Live(builds.LastAttempt(r.Build).Phase) {
		return builds.ErrFenced
	}
	return nil
}

// current waits until this node's state is as new as the cluster's was when it
// was called, or until ctx ends.
func (at *attempt) current(ctx context.Context) error {
	o := at.owner.o
	for {
		index, err := o.Raft.ReadIndex(ctx)
		if err == nil {
			err = o.Raft.WaitApplied(ctx, index)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			return nil
		}
		ctxutil.Sleep(ctx, retryInterval)
	}
}

// repository answers a ref without its tag.
func repository(ref string) string {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i]
	}
	return ref
}
