package verify

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// listSize is the number of builds in one list.
const listSize = 200

// errShortList means that a list ends before the build that it was read for.
var errShortList = errors.New("the list ends before this build")

// list reads the newest builds of the run from one node, linearizably and without retries. The list
// is recorded as a read of b, a build that was acknowledged before: it must contain b in a state
// that a read of b may return.
func (r *run) list(ctx context.Context, who string, b *imagebuilderv1.Build) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	i := rand.IntN(len(r.pinned))
	call := r.rec.Begin(who+"@"+r.opts.Servers[i], history.Operation{Kind: history.Read, ID: b.GetId(), Linearizable: true, List: true})
	res, err := r.pinned[i].ImageBuilderClient.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{
		Filter: &imagebuilderv1.BuildFilter{Labels: map[string]string{"verify": r.id}}, PageSize: listSize, Linearizable: true,
	})
	if err != nil {
		r.closeCall(call, err)
		return
	}
	for _, x := range res.Builds {
		r.record(x, r.opts.Servers[i])
	}
	switch at := slices.IndexFunc(res.Builds, func(x *imagebuilderv1.Build) bool { return x.GetId() == b.GetId() }); {
	case at >= 0:
		call.End(history.Outcome{Build: history.BuildStateOf(res.Builds[at]), Index: res.Read.GetIndex()})
	case reaches(res, b):
		call.End(history.Outcome{NotFound: true, Index: res.Read.GetIndex()})
	default:
		call.Unknown(errShortList)
	}
}

// reaches reports whether a list, whose newest builds are the first, goes back beyond the creation
// of b.
func reaches(res *imagebuilderv1.ListBuildsResponse, b *imagebuilderv1.Build) bool {
	if res.NextPageToken == "" || len(res.Builds) == 0 {
		return res.NextPageToken == ""
	}
	oldest := res.Builds[len(res.Builds)-1]
	return oldest.GetCreatedAt().AsTime().Before(b.GetCreatedAt().AsTime())
}
