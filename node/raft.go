package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/owner"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/tracing"
)

// raftAdapter lets the domain use the cluster, which knows no builds.
type raftAdapter struct{ node *cluster.Node }

var _ builds.Raft = raftAdapter{}

// Propose asks again while the outcome is unknown: every command of builds can
// be repeated.
func (a raftAdapter) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	ctx, cancel := hold(ctx)
	defer cancel()
	for {
		res, err := a.node.Propose(ctx, proto.CloneOf(cmd))
		if err == nil {
			return res.Index, res.Result, nil
		}
		if !errors.Is(err, cluster.ErrOutcomeUnknown) || !ctxutil.Sleep(ctx, unknownPause()) {
			return 0, nil, clusterError(err)
		}
	}
}

func (a raftAdapter) ReadIndex(ctx context.Context) (uint64, error) {
	ctx, cancel := hold(ctx)
	defer cancel()
	index, err := a.node.ReadIndex(ctx)
	return index, clusterError(err)
}

func (a raftAdapter) WaitApplied(ctx context.Context, index uint64) error {
	ctx, cancel := hold(ctx)
	defer cancel()
	return clusterError(a.node.WaitApplied(ctx, index))
}

func (a raftAdapter) Freshness() (uint64, bool, time.Duration) {
	s := a.node.Status()
	return s.Applied, s.LeaderID != "", s.LastContact
}

// codedError is an error of the cluster with the code that clients see.
type codedError struct {
	error
	code codes.Code
}

func (e codedError) GRPCStatus() *status.Status { return status.New(e.code, e.Error()) }
func (e codedError) Unwrap() error              { return e.error }

// clusterError makes the cluster's errors UNAVAILABLE: asking again is safe.
func clusterError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	}
	return codedError{err, codes.Unavailable}
}

// registryAdapter lets the domain, the copy runtime and the owner loop use the
// registry client, which knows no builds.
type registryAdapter struct {
	client *registry.Client
}

var (
	_ api.Registry    = registryAdapter{}
	_ owner.Publisher = registryAdapter{}
)

// install are the rights of the service itself.
var install = registry.Rights{AllowAll: true}

func rightsOf(r *buildsv1.Rights) registry.Rights {
	out := registry.Rights{AllowAll: r.GetAllowAll(), Hosts: r.GetHosts()}
	if len(r.GetAdditional()) > 0 {
		out.Additional = map[string]registry.Basic{}
		for host, b := range r.GetAdditional() {
			out.Additional[host] = registry.Basic{Username: b.GetUsername(), Password: b.GetPassword()}
		}
	}
	return out
}

func imageOf(img registry.Image, ref string, err error) (builds.Image, error) {
	if err != nil {
		return builds.Image{}, imageError(ref, err)
	}
	return builds.Image{Ref: img.Ref, Digest: img.Digest, SizeBytes: img.SizeBytes}, nil
}

func imageError(ref string, err error) error {
	kind := builds.ImageUnavailable
	switch registry.KindOf(err) {
	case registry.Invalid, registry.Refused, registry.Unsupported:
		kind = builds.ImageInvalid
	case registry.NotFound:
		kind = builds.ImageNotFound
	case registry.Unauthorized:
		kind = builds.ImageUnauthorized
	}
	return &builds.ImageError{Kind: kind, Ref: ref, Err: err}
}

func (a registryAdapter) Resolve(ctx context.Context, ref, platform string, rights *buildsv1.Rights) (builds.Image, error) {
	ctx, span := tracing.Start(ctx, "registry resolve", tracing.Ref.String(ref))
	defer span.End()
	img, err := a.client.Resolve(ctx, ref, platform, rightsOf(rights))
	return imageOf(img, ref, err)
}

func (a registryAdapter) Head(ctx context.Context, ref string, rights *buildsv1.Rights) (builds.Image, error) {
	ctx, span := tracing.Start(ctx, "registry head", tracing.Ref.String(ref))
	defer span.End() // that nothing is there is an answer
	img, err := a.client.Head(ctx, ref, rightsOf(rights))
	return imageOf(img, ref, err)
}

// Copy pushes by digest to one of the install's own repositories.
func (a registryAdapter) Copy(ctx context.Context, src string, rights *buildsv1.Rights, dst string, progress io.Writer) (builds.Image, error) {
	ctx, span := tracing.Start(ctx, "registry copy", tracing.Ref.String(src))
	img, err := a.client.Copy(ctx, src, rightsOf(rights), dst, install, progress)
	tracing.End(span, err)
	return imageOf(img, src, err)
}

// Publish copies image to the repository of ref where it is another, tags it,
// and returns once the registry answers ref with its digest.
func (a registryAdapter) Publish(ctx context.Context, image, ref string) error {
	from, digest, _ := strings.Cut(image, "@")
	to := repositoryOf(ref)
	if from != to {
		move, span := tracing.Start(ctx, "registry copy", tracing.Ref.String(image))
		_, err := a.client.Copy(move, image, install, to, install, io.Discard)
		if tracing.End(span, err); err != nil {
			return err
		}
	}
	tag, span := tracing.Start(ctx, "registry tag", tracing.Digest.String(digest))
	err := a.client.Tag(tag, to+"@"+digest, ref, install)
	if tracing.End(span, err); err != nil {
		return err
	}
	a.client.Forget(ref) // a success always asks the registry
	look, span := tracing.Start(ctx, "registry head", tracing.Ref.String(ref))
	seen, err := a.client.AwaitHead(look, ref, install)
	tracing.End(span, err)
	if err != nil {
		return err
	}
	if seen.Digest != digest {
		return fmt.Errorf("the registry shows %s at %s, not %s that was tagged", seen.Digest, ref, digest)
	}
	return nil
}

// Exists reports whether the registry has an image of the install's own. It
// always asks: the answer decides whether a build is done.
func (a registryAdapter) Exists(ctx context.Context, image string) (bool, error) {
	a.client.Forget(image)
	_, err := a.client.AwaitHead(ctx, image, install)
	if registry.KindOf(err) == registry.NotFound {
		return false, nil
	}
	return err == nil, err
}

func repositoryOf(ref string) string {
	named, err := registry.ParseRef(ref)
	if err != nil {
		return ref
	}
	return named.Name()
}
