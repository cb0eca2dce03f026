package sim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// client creates, reads, lists and cancels builds through random nodes, one call after the other,
// until ctx ends.
func (w *world) client(ctx context.Context, name string) {
	var mine []string
	var index uint64
	for wait(ctx, time.Duration(200+w.intn(3000))*time.Millisecond) {
		r := w.nodes[w.intn(len(w.nodes))].alive()
		if r == nil {
			continue
		}
		call, cancel := context.WithTimeout(ctx, time.Duration(500+w.intn(8000))*time.Millisecond)
		switch k := w.intn(10); {
		case k < 4 || len(mine) == 0:
			op := history.Operation{
				// The images change after a while, because the time to check a history grows much
				// faster than its length.
				Kind: history.Create, Ref: fmt.Sprintf("image-%d-%d", time.Since(w.startedAt)/(5*time.Minute), w.intn(6)), Requester: name,
				RequestID: fmt.Sprintf("%s-%d", name, w.intn(1<<30)), Force: w.intn(2) == 0,
			}
			if id, at, ok := w.create(call, r, name, op); ok {
				index = max(index, at)
				if id != "" {
					mine = append(mine, id)
				}
			}
		case k < 8:
			op := history.Operation{Kind: history.Read, ID: mine[w.intn(len(mine))], Linearizable: w.intn(2) == 0}
			if !op.Linearizable {
				op.MinIndex = index
			}
			if at := w.read(call, r, name, op); at != lacked {
				index = max(index, at)
			}
		case k == 8:
			w.list(call, r)
		default:
			w.cancel(call, r, name, history.Operation{Kind: history.Cancel, ID: mine[w.intn(len(mine))], Requester: name})
		}
		cancel()
	}
}

// endFailed records the end of a call that failed. The outcome of the call is unknown unless the
// code shows that the service has refused it.
func (w *world) endFailed(c *history.Call, err error) {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition:
		c.Failed(err)
	default:
		c.Unknown(err)
	}
}

// source returns a source that is an image reference.
func source(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}

// privateHost is the registry of the credentials that simulated requests carry.
const privateHost = "private.example.com"

// passwordOf returns the password in each request for an image, or "" for half of the images, whose
// requests carry no secret.
func passwordOf(ref string) string {
	if xxhash.Sum64String("secret of "+ref)%2 == 0 {
		return ""
	}
	return "password of " + ref
}

// authOf returns the credentials in each request for an image, or nil.
func authOf(ref string) *imagebuilderv1.RegistryAuth {
	password := passwordOf(ref)
	if password == "" {
		return nil
	}
	return &imagebuilderv1.RegistryAuth{Additional: map[string]*imagebuilderv1.BasicAuth{privateHost: {Username: "user", Password: password}}}
}

// list reads the list of all builds linearizably, and reports an error if it is stale.
func (w *world) list(ctx context.Context, r *running) {
	if err := w.judgedList(ctx, r); err != nil {
		w.t.Errorf("seed %d: after %s %v", w.seed, time.Since(w.startedAt), err)
	}
}

// judgedList reads the list of all builds linearizably. It must contain every build that was
// acknowledged before the call, and show every build as ended that a client had seen ended.
// judgedList returns an error if it does not.
func (w *world) judgedList(ctx context.Context, r *running) error {
	w.mu.Lock()
	acked, ended := slices.Clone(w.ids), maps.Clone(w.ended)
	w.mu.Unlock()
	listed := map[string]*imagebuilderv1.Build{}
	for token := ""; ; {
		res, err := r.api().ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{Linearizable: true, PageSize: 1000, PageToken: token})
		if err != nil {
			return nil // a failed call proves nothing
		}
		for _, b := range res.Builds {
			listed[b.Id] = b
		}
		if token = res.NextPageToken; token == "" {
			break
		}
	}
	w.count("a linearizable list was read")
	for _, id := range acked {
		switch b := listed[id]; {
		case b == nil:
			return fmt.Errorf("a linearizable list of %d builds lacks the acknowledged build %s", len(listed), id)
		case ended[id] && b.EndedAt == nil:
			return fmt.Errorf("a linearizable list shows build %s as %s, which had ended before", id, b.Phase)
		}
	}
	return nil
}

// create requests a build, and repeats the request at other nodes while it returns UNAVAILABLE. All
// tries are one operation of the history, because they have one request id. create returns the id
// of the build, "" if the image exists, and the index of the response.
func (w *world) create(ctx context.Context, r *running, client string, op history.Operation) (id string, index uint64, ok bool) {
	c := w.rec.Begin(client, op)
	var err error
	for {
		var res *imagebuilderv1.BuildImageResponse
		res, err = r.api().BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
			Source: source("docker.io/library/" + op.Ref + ":1"), Auth: authOf("docker.io/library/" + op.Ref + ":1"),
			Requester: op.Requester, RequestId: op.RequestID, Force: op.Force,
		})
		if err == nil {
			c.End(history.Created(res))
			if res.Exists {
				w.count("the image existed")
				return "", res.Read.GetIndex(), true
			}
			w.acknowledge(res.Build.Id)
			return res.Build.Id, res.Read.GetIndex(), true
		}
		if status.Code(err) != codes.Unavailable || !wait(ctx, 50*time.Millisecond) {
			break
		}
		if next := w.nodes[w.intn(len(w.nodes))].alive(); next != nil {
			r = next
		}
	}
	w.endFailed(c, err)
	return "", 0, false
}

// lacked is the result of read if the build was not found.
const lacked = 1<<64 - 1

// read reads a build, and returns the index of the response, 0 if there was none, or lacked.
func (w *world) read(ctx context.Context, r *running, client string, op history.Operation) uint64 {
	c := w.rec.Begin(client, op)
	res, err := r.api().BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{
		Build: &imagebuilderv1.BuildStatusRequest_Id{Id: op.ID}, Linearizable: op.Linearizable, MinIndex: op.MinIndex,
	})
	switch {
	case err == nil:
		c.End(history.Outcome{Build: history.BuildStateOf(res.Build), Index: res.Read.GetIndex()})
		if res.Build.EndedAt != nil {
			w.mu.Lock()
			w.ended[op.ID] = true
			w.mu.Unlock()
		}
		return res.Read.GetIndex()
	case status.Code(err) == codes.NotFound:
		c.End(history.Outcome{NotFound: true})
		return lacked
	default:
		w.endFailed(c, err)
	}
	return 0
}

// cancel cancels a build.
func (w *world) cancel(ctx context.Context, r *running, client string, op history.Operation) {
	c := w.rec.Begin(client, op)
	res, err := r.api().CancelBuild(ctx, &imagebuilderv1.CancelBuildRequest{Id: op.ID, Requester: op.Requester})
	switch status.Code(err) {
	case codes.OK:
		c.End(history.Outcome{Build: history.BuildStateOf(res.Build), Detached: res.DetachedOnly, Index: res.Read.GetIndex()})
	case codes.FailedPrecondition:
		c.End(history.Outcome{TooLate: true})
	case codes.PermissionDenied:
		c.End(history.Outcome{NotRequester: true})
	default:
		w.endFailed(c, err)
	}
}

// awaitBuildsEnded waits until every acknowledged build has ended, and records its end in the
// history. A build that does not end within ten minutes is an error.
func (w *world) awaitBuildsEnded(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for id := range w.acked {
		for {
			r := w.nodes[w.intn(len(w.nodes))].alive()
			res, err := r.api().BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{
				Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}, WaitFor: imagebuilderv1.Phase_PHASE_SUCCEEDED, Linearizable: true,
			})
			if err == nil && res.Build.EndedAt != nil {
				c := w.rec.Begin("observer", history.Operation{Kind: history.Observe, ID: id})
				c.End(history.Outcome{Build: history.BuildStateOf(res.Build), Index: res.Read.GetIndex()})
				break
			}
			if ctx.Err() != nil {
				w.t.Errorf("seed %d: acknowledged build %s did not end: %v", w.seed, id, err)
				for _, n := range w.nodes {
					r := n.alive()
					r.store().Read(func(s *builds.State) {
						rec := s.Build(id)
						w.t.Logf("%s: status %+v; build %v; successor %v; stop %v", n.name, r.cluster().Status(), rec.GetBuild(), rec.GetSuccessor(), rec.GetStopReason())
						s.Nodes(func(x *buildsv1.Node) bool { w.t.Logf("  node %v", x); return true })
					})
				}
				return
			}
			wait(ctx, 100*time.Millisecond)
		}
	}
}
