package worker

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/copy"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// registries accesses all registries through the proxy of the pod, which decides what this build
// may do.
type registries struct {
	client     *registry.Client
	names      proxy.Names
	rights     registry.Rights
	contextRef string
}

var (
	_ buildkit.Registry = (*registries)(nil)
	_ buildkit.Contexts = (*registries)(nil)
	_ copy.Copier       = (*registries)(nil)
)

func openRegistries(j *podapi.Job, log *slog.Logger) (*registries, error) {
	client, err := registry.New(registry.Options{AllowLoopback: true, Logger: log})
	if err != nil {
		return nil, err
	}
	return &registries{
		client:     client,
		names:      proxy.Names{Addr: j.ProxyAddr},
		rights:     registry.Rights{Additional: map[string]registry.Basic{j.ProxyAddr: {Username: proxy.User, Password: j.ProxyToken}}},
		contextRef: j.ContextRef,
	}, nil
}

// Head checks whether the build may read an image. It ignores the rights: the proxy knows them.
func (r *registries) Head(ctx context.Context, ref string, _ *buildsv1.Rights) (builds.Image, error) {
	name, err := r.names.Pull(ref)
	if err != nil {
		return builds.Image{}, &builds.ImageError{Kind: builds.ImageInvalid, Ref: ref, Err: err}
	}
	img, err := r.client.Head(ctx, name, r.rights)
	return imageOf(img, ref, err)
}

// Resolve reads an image that the build pushed.
func (r *registries) Resolve(ctx context.Context, ref, platform string, _ *buildsv1.Rights) (builds.Image, error) {
	name, err := r.names.Push(ref)
	if err != nil {
		return builds.Image{}, &builds.ImageError{Kind: builds.ImageInvalid, Ref: ref, Err: err}
	}
	img, err := r.client.Resolve(ctx, name, platform, r.rights)
	return imageOf(img, ref, err)
}

// Copy copies the base image to the repository that the build pushes to.
func (r *registries) Copy(ctx context.Context, src string, _ *buildsv1.Rights, dst string, progress io.Writer) (builds.Image, error) {
	from, err := r.names.Pull(src)
	if err != nil {
		return builds.Image{}, &builds.ImageError{Kind: builds.ImageInvalid, Ref: src, Err: err}
	}
	to, err := r.names.Push(dst)
	if err != nil {
		return builds.Image{}, &builds.ImageError{Kind: builds.ImageInvalid, Ref: dst, Err: err}
	}
	img, err := r.client.Copy(ctx, from, r.rights, to, r.rights, progress)
	return imageOf(img, src, err)
}

// Open opens the uploaded context.
func (r *registries) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	if r.contextRef == "" {
		return nil, fmt.Errorf("the job does not say where the context %s is", digest)
	}
	name, err := r.names.Context(r.contextRef)
	if err != nil {
		return nil, err
	}
	return r.client.OpenFile(ctx, name, r.rights)
}

func imageOf(img registry.Image, ref string, err error) (builds.Image, error) {
	if err == nil {
		return builds.Image{Ref: ref, Digest: img.Digest, SizeBytes: img.SizeBytes}, nil
	}
	kind := builds.ImageUnavailable
	switch registry.KindOf(err) {
	case registry.Invalid, registry.Refused, registry.Unsupported:
		kind = builds.ImageInvalid
	case registry.NotFound:
		kind = builds.ImageNotFound
	case registry.Unauthorized:
		kind = builds.ImageUnauthorized
	}
	return builds.Image{}, &builds.ImageError{Kind: kind, Ref: ref, Err: err}
}
