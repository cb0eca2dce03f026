package owner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

const (
	// tagRepairTimeout limits the repair of tags by a former owner.
	tagRepairTimeout = time.Minute
	// registryTimeout limits each request to the registry of the published image. The workload has
	// pushed to this registry already, so it exists, and the next attempt may run on a node that
	// reaches it.
	registryTimeout = 5 * time.Minute
)

// errRegistryAway ends an attempt after registryTimeout. The attempt is not counted.
var errRegistryAway = errors.New("the registry could not be reached by this node for " + registryTimeout.String())

// repository returns a ref without its tag.
func repository(ref string) string {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i]
	}
	return ref
}

// withRegistryTimeout calls f with a context that also ends after registryTimeout. The error then
// wraps errRegistryAway.
func withRegistryTimeout(ctx context.Context, f func(context.Context) error) error {
	limited, cancel := context.WithTimeoutCause(ctx, registryTimeout, errRegistryAway)
	defer cancel()
	err := f(limited)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(limited), errRegistryAway) {
		err = fmt.Errorf("%w: %w", errRegistryAway, err)
	}
	return err
}

// exists reports whether the registry has the image repository@digest.
func (at *attempt) exists(ctx context.Context, image string) (found bool, err error) {
	err = withRegistryTimeout(ctx, func(ctx context.Context) (err error) {
		found, err = at.owner.opts.Publisher.Exists(ctx, image)
		return err
	})
	return found, err
}

// publish tags the image at all targets. Its digest is committed already.
func (at *attempt) publish(ctx context.Context, out workload.Outcome) error {
	at.digest = out.Digest
	for i, ref := range builds.Targets(at.record.Build) {
		if i > 0 { // the commit of the digest confirmed the owner for the first ref
			if err := at.stillOwner(ctx); err != nil {
				return err
			}
		}
		at.tagging = append(at.tagging, ref)
		if err := withRegistryTimeout(ctx, func(ctx context.Context) error { return at.publishTraced(ctx, out.Repository+"@"+out.Digest, ref) }); err != nil {
			return &workload.Failure{Blame: builds.BlameInfrastructure, Message: "publish the image: " + err.Error(), Err: err}
		}
	}
	return nil
}

// inheritTags takes over the tags that a former owner of the build may have set with the digest
// that it committed. That owner repairs them only until the build ends.
func (at *attempt) inheritTags() {
	if former := at.record.Build.Digest; former != "" && len(at.tagging) == 0 {
		at.tagging, at.digest = builds.Targets(at.record.Build), former
	}
}

// repairTags corrects tags that this node may have set for an attempt that has failed or has
// another owner. No check before the effect prevents that, because the process or the request may
// be delayed between the check and the effect. Each tag gets the digest that the state names for it
// (State.CommittedDigest), until the state does not change any more. A tag for which it names none
// stays as it is.
func (at *attempt) repairTags(ctx context.Context, log *slog.Logger) {
	if len(at.tagging) == 0 {
		return
	}
	ctx, cancel := at.outlasting(ctx)
	defer cancel()
	ctx, cancelTimeout := context.WithTimeout(ctx, tagRepairTimeout)
	defer cancelTimeout()
	set := map[string]string{}
	for _, ref := range at.tagging {
		set[ref] = at.digest
	}
	for repaired := true; repaired; {
		if err := at.catchUp(ctx); err != nil {
			log.Warn("cannot check whether this node has tagged the image after it lost the attempt", "refs", at.tagging, "err", err)
			return
		}
		repaired = false
		view := at.owner.opts.Store.View()
		for _, ref := range at.tagging {
			want := view.CommittedDigest(ref)
			if want == "" || want == set[ref] {
				continue
			}
			if err := at.owner.opts.Publisher.Publish(ctx, repository(ref)+"@"+want, ref); err != nil {
				log.Error("cannot repair a tag that this node may have set after it lost the attempt", "ref", ref, "digest", want, "err", err)
				return
			}
			log.Warn("repaired a tag that this node may have set after it lost the attempt", "ref", ref, "digest", want)
			set[ref], repaired = want, true
		}
	}
}
