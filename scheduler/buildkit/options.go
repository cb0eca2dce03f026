package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Address says where a BuildKit daemon listens.
type Address struct {
	// URL is unix:///path/of/socket or tcp://host:port.
	URL string
	// TLS is required for any tcp address that is not loopback.
	TLS *TLS
}

// TLS names the PEM files of a mutually authenticated connection.
type TLS struct {
	CA, Cert, Key string
	// ServerName is the name in the daemon's certificate; the host of the URL
	// if empty.
	ServerName string
}

// Registry is what the runtime asks of image registries. Errors are
// *builds.ImageError; another error counts as a registry that cannot be asked.
type Registry interface {
	// Head answers the image or index at exactly this ref, under the rights.
	Head(ctx context.Context, ref string, rights *buildsv1.Rights) (builds.Image, error)
	// Resolve answers the image with its size, of an index that of the platform.
	Resolve(ctx context.Context, ref, platform string, rights *buildsv1.Rights) (builds.Image, error)
}

// Contexts opens uploaded build contexts.
type Contexts interface {
	// Open streams the tar archive with that digest (`sha256:` and hex).
	Open(ctx context.Context, digest string) (io.ReadCloser, error)
}

// Route says under which names a daemon reaches images that it must not reach
// directly, as through a proxy beside it. A name that is one already stays.
type Route interface {
	// Pull is for base images.
	Pull(ref string) (string, error)
	// Push is for repositories that builds push to.
	Push(repository string) (string, error)
	// Cache is for images of the build cache.
	Cache(ref string) (string, error)
}

// Credentials answers what to present to a registry host (docker.io for
// Docker Hub): for pulls what the rights allow, for pushes what the install
// has for it. Empty strings mean anonymous; an empty user with a password
// means an identity token.
type Credentials func(ctx context.Context, host string, rights *buildsv1.Rights, push bool) (user, password string, err error)

// Options configure a Runtime.
type Options struct {
	// Daemons are the BuildKit daemons to choose from; at least one.
	Daemons []Address
	// Registry is required.
	Registry Registry
	// Credentials is required.
	Credentials Credentials
	// Contexts opens uploads; without it builds of uploads are refused.
	Contexts Contexts
	// HTTP fetches downloads and asks git servers whether a request may read a
	// repository. The addresses come from requests: its dialer should refuse
	// those that are internal. Required.
	HTTP *http.Client
	// TempDir is where uploads and downloads are unpacked, removed when the
	// solve ended. It is made if missing and belongs to this runtime alone: New
	// removes the contexts that a process that was killed left there. If empty,
	// os.TempDir() is used, and what a killed process left stays.
	TempDir string
	// ContextBytes and ContextFiles limit one context when unpacked; 2 GiB and
	// 200,000 if zero.
	ContextBytes int64
	ContextFiles int
	// CacheRepository is a repository of the install's for the build cache,
	// one tag for each warm key; no registry cache if empty.
	CacheRepository string
	// Frontends are the images, with or without tag or digest, that a
	// `# syntax=` line may name. docker/dockerfile is always accepted: unless
	// it is listed, the frontend built into the daemon takes its place.
	Frontends []string
	// Networks are the network modes that requests may choose, of "default",
	// "none" and "host"; the first two if empty.
	Networks []string
	// Route, if set, renames all images that the daemons pull and push. Registry
	// and outcomes keep the true names; Credentials is asked for the new hosts.
	Route Route
	// DaemonWait is how long a workload waits while no daemon answers, before
	// it fails as infrastructure; to the workload's deadline if zero.
	DaemonWait time.Duration
	// Tracer makes spans of calls to the daemons and hands the trace to them; nil
	// for none.
	Tracer trace.TracerProvider
	// Log is required.
	Log *slog.Logger
}

// Validate completes the options and says what is wrong with them.
func (o *Options) Validate() error {
	switch {
	case len(o.Daemons) == 0:
		return errors.New("buildkit: no daemon is configured: name at least one address")
	case o.Registry == nil || o.Credentials == nil || o.HTTP == nil || o.Log == nil:
		return errors.New("buildkit: Registry, Credentials, HTTP and Log are required")
	}
	for _, d := range o.Daemons {
		if err := d.validate(); err != nil {
			return err
		}
	}
	if len(o.Networks) == 0 {
		o.Networks = []string{networkDefault, networkNone}
	}
	for _, n := range o.Networks {
		if !slices.Contains([]string{networkDefault, networkNone, networkHost}, n) {
			return fmt.Errorf("buildkit: network mode %q is not known: use default, none or host", n)
		}
	}
	if o.ContextBytes == 0 {
		o.ContextBytes = 2 << 30
	}
	if o.ContextFiles == 0 {
		o.ContextFiles = 200_000
	}
	return nil
}

func (a Address) validate() error {
	u, err := url.Parse(a.URL)
	if err != nil {
		return fmt.Errorf("buildkit: daemon address %q is not a URL: use unix:///path or tcp://host:port", a.URL)
	}
	switch {
	case u.Scheme == "unix" && u.Path != "":
		return nil
	case u.Scheme != "tcp" || u.Port() == "":
		return fmt.Errorf("buildkit: daemon address %q: use unix:///path or tcp://host:port", a.URL)
	case a.TLS == nil && !loopback(u.Hostname()):
		return fmt.Errorf("buildkit: daemon address %q needs TLS: whoever reaches a daemon without it controls its machine", a.URL)
	}
	return nil
}
