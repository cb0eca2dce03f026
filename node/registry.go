package node

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/config"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/ecr"
	"github.com/image-builder-ha/image-builder/scheduler/refcache"
	"github.com/image-builder-ha/image-builder/tracing"
)

// RegistryOptions returns the options of the registry client of an install. Commands use them too,
// to reach registries exactly as a node does. metrics may be nil. The caller sets Kept and Sharers
// if it knows the replicated state.
func RegistryOptions(cfg config.Config, log *slog.Logger, metrics prometheus.Registerer) registry.Options {
	return registry.Options{
		DockerConfigFile: cfg.Orchestrator.PullSecretFile,
		WorkspaceHost:    repositories(cfg).WorkspaceHost,
		Insecure:         cfg.Registry.InsecureHosts,
		CAFile:           cfg.Registry.CAFile,
		Timeout:          time.Duration(cfg.Registry.Timeout),
		AllowHosts:       append([]string{repositories(cfg).BaseHost, repositories(cfg).WorkspaceHost}, cfg.Registry.AllowHosts...),
		AllowLoopback:    cfg.Registry.AllowLoopback,
		Providers:        cfg.Providers(),
		AllowedByDefault: ecr.Private,
		Hosts:            cfg.Registry.HostOptions(),
		Proxy:            http.ProxyFromEnvironment,
		Concurrency:      cfg.Registry.Concurrency,
		Bandwidth:        cfg.Registry.Bandwidth,
		CacheFor:         time.Duration(cfg.Registry.CacheFor),
		Registerer:       metrics,
		Logger:           log,
	}
}

// repositories returns the install's own repositories and their hosts.
func repositories(cfg config.Config) api.Repositories {
	r := api.Repositories{Base: cfg.Orchestrator.BaseImageRepository, Workspace: cfg.Orchestrator.WorkspaceImageRepository}
	r.BaseHost, r.WorkspaceHost = hostOf(r.Base), hostOf(r.Workspace)
	return r
}

// hostOf returns the registry host of a reference, or "" if the reference is not valid.
func hostOf(repository string) string {
	named, err := registry.ParseRef(repository)
	if err != nil {
		return ""
	}
	host, _, _ := strings.Cut(named.Name(), "/")
	return host
}

// repositoryOf returns a reference without tag and digest, or ref if it is not valid.
func repositoryOf(ref string) string {
	named, err := registry.ParseRef(ref)
	if err != nil {
		return ref
	}
	return named.Name()
}

// installRights are the rights of the service itself: all credentials of the install, for any host.
var installRights = registry.Rights{AllowAll: true}

// rightsOf converts the rights of a request.
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

// imageOf converts the result of a lookup of ref.
func imageOf(img registry.Image, ref string, err error) (builds.Image, error) {
	if err != nil {
		return builds.Image{}, imageError(ref, err)
	}
	return builds.Image{Ref: img.Ref, Digest: img.Digest, SizeBytes: img.SizeBytes}, nil
}

// imageError converts an error of the registry client. ref is the reference that was requested.
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

// registryAdapter is Images on the registry client, which does not know the types of builds. It
// also implements the registries of the runtimes copy and buildkit.
type registryAdapter struct {
	client *registry.Client
}

var _ Images = registryAdapter{}

// Resolve returns the image of a reference for a platform, by its digest.
func (a registryAdapter) Resolve(ctx context.Context, ref, platform string, rights *buildsv1.Rights) (builds.Image, error) {
	ctx, span := tracing.Start(ctx, "registry resolve", tracing.Ref.String(ref))
	defer span.End()
	img, err := a.client.Resolve(ctx, ref, platform, rightsOf(rights))
	return imageOf(img, ref, err)
}

// Head returns the image that a reference names, without choosing a platform.
func (a registryAdapter) Head(ctx context.Context, ref string, rights *buildsv1.Rights) (builds.Image, error) {
	ctx, span := tracing.Start(ctx, "registry head", tracing.Ref.String(ref))
	defer span.End() // without the error: a missing image is an expected result
	img, err := a.client.Head(ctx, ref, rightsOf(rights))
	return imageOf(img, ref, err)
}

// Copy copies an image to one of the install's own repositories, by digest. It sets no tag. rights
// are those of the request, for reading src.
func (a registryAdapter) Copy(ctx context.Context, src string, rights *buildsv1.Rights, dst string, progress io.Writer) (builds.Image, error) {
	ctx, span := tracing.Start(ctx, "registry copy", tracing.Ref.String(src))
	img, err := a.client.Copy(ctx, src, rightsOf(rights), dst, installRights, progress)
	tracing.End(span, err)
	return imageOf(img, src, err)
}

// Publish tags image, a reference by digest, as ref. If the repository of ref is another one, it
// first copies the image there. It returns nil only after the registry has shown the digest at ref,
// and waits while the registry does not respond.
func (a registryAdapter) Publish(ctx context.Context, image, ref string) error {
	from, digest, _ := strings.Cut(image, "@")
	to := repositoryOf(ref)
	if from != to {
		move, span := tracing.Start(ctx, "registry copy", tracing.Ref.String(image))
		_, err := a.client.Copy(move, image, installRights, to, installRights, io.Discard)
		if tracing.End(span, err); err != nil {
			return err
		}
	}
	tag, span := tracing.Start(ctx, "registry tag", tracing.Digest.String(digest))
	err := a.client.Tag(tag, to+"@"+digest, ref, installRights)
	if tracing.End(span, err); err != nil {
		return err
	}
	a.client.Forget(ref) // the check must not use the cache
	look, span := tracing.Start(ctx, "registry head", tracing.Ref.String(ref))
	seen, err := a.client.AwaitHead(look, ref, installRights)
	tracing.End(span, err)
	if err != nil {
		return err
	}
	if seen.Digest != digest {
		return fmt.Errorf("the registry shows %s at %s, not %s that was tagged", seen.Digest, ref, digest)
	}
	return nil
}

// Exists reports whether the registry has an image of the install. It always queries the
// registry, because the result decides whether a build is done, and waits while the registry does
// not respond.
func (a registryAdapter) Exists(ctx context.Context, image string) (bool, error) {
	a.client.Forget(image)
	_, err := a.client.AwaitHead(ctx, image, installRights)
	if registry.KindOf(err) == registry.NotFound {
		return false, nil
	}
	return err == nil, err
}

// Refresh resolves a cached reference at its registry, with the rights of the install.
func (a registryAdapter) Refresh(ctx context.Context, ref string) (refcache.Refreshed, error) {
	img, err := a.client.Refresh(ctx, ref)
	return refcache.Refreshed{Digest: img.Digest, SizeBytes: img.SizeBytes, Anonymous: img.Anonymous}, err
}

// Forget drops a reference from the cache of the client.
func (a registryAdapter) Forget(ref string) { a.client.Forget(ref) }
