package verify

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// callTimeout bounds one read.
const callTimeout = 10 * time.Second

// create requests a build. Package client retries the call with the same request id until
// Options.Patience has passed. ok reports whether a build was acknowledged.
func (r *run) create(ctx context.Context, c *client.Client, who string, w workload) (b *imagebuilderv1.Build, index uint64, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Patience)
	defer cancel()
	req := &imagebuilderv1.BuildImageRequest{
		Source: w.source, Requester: who, RequestId: who, Force: w.force, Auth: r.canary.auth(r.opts.Auth), Labels: map[string]string{"verify": r.id},
	}
	if w.secret {
		req.Secrets = map[string][]byte{"canary": []byte(r.canary.secret)}
	}
	call := r.rec.Begin(who, history.Operation{Kind: history.Create, Ref: w.name, Requester: who, RequestID: who, Force: w.force})
	res, err := c.BuildImage(ctx, req)
	if err != nil {
		r.closeCall(call, err)
		return nil, 0, false
	}
	call.End(history.Created(res))
	r.record(res.Build, "create")
	return res.Build, res.Read.GetIndex(), !res.Exists
}

// read reads the status of a build from one node, without retries.
func (r *run) read(ctx context.Context, who string, op history.Operation) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	i := rand.IntN(len(r.pinned))
	call := r.rec.Begin(who+"@"+r.opts.Servers[i], op)
	res, err := r.pinned[i].ImageBuilderClient.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{
		Build: &imagebuilderv1.BuildStatusRequest_Id{Id: op.ID}, Linearizable: op.Linearizable, MinIndex: op.MinIndex,
	})
	switch {
	case err == nil:
		call.End(history.Outcome{Build: history.BuildStateOf(res.Build), Index: res.Read.GetIndex()})
		r.record(res.Build, r.opts.Servers[i])
	case status.Code(err) == codes.NotFound:
		call.End(history.Outcome{NotFound: true})
	default:
		r.closeCall(call, err)
	}
}

// cancel cancels a build as its requester.
func (r *run) cancel(ctx context.Context, c *client.Client, who, id string) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Patience)
	defer cancel()
	call := r.rec.Begin(who, history.Operation{Kind: history.Cancel, ID: id, Requester: who})
	res, err := c.CancelBuild(ctx, &imagebuilderv1.CancelBuildRequest{Id: id, Requester: who})
	switch status.Code(err) {
	case codes.OK:
		call.End(history.Outcome{Build: history.BuildStateOf(res.Build), Detached: res.DetachedOnly, Index: res.Read.GetIndex()})
	case codes.FailedPrecondition:
		call.End(history.Outcome{TooLate: true})
	case codes.PermissionDenied:
		call.End(history.Outcome{NotRequester: true})
	default:
		r.closeCall(call, err)
	}
}

// observe waits for the end of a build, whatever fails meanwhile, until ctx ends. ok reports
// whether the build has ended.
func (r *run) observe(ctx context.Context, c *client.Client, who, id string) (*imagebuilderv1.Build, bool) {
	call := r.rec.Begin(who, history.Operation{Kind: history.Observe, ID: id})
	for {
		b, err := c.Wait(ctx, id)
		if err == nil {
			call.End(history.Outcome{Build: history.BuildStateOf(b)})
			r.record(b, "wait")
			return b, true
		}
		if ctx.Err() != nil || status.Code(err) == codes.NotFound {
			r.closeCall(call, err)
			return nil, false
		}
		wait(ctx, 100*time.Millisecond)
	}
}

// closeCall records a failed call. The outcome is unknown for most errors.
func (r *run) closeCall(call *history.Call, err error) {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition, codes.ResourceExhausted:
		call.Failed(err)
	default:
		call.Unknown(err)
	}
}
