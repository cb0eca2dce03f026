package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Network modes, as requests name them.
const (
	networkDefault = "default"
	networkNone    = "none"
	networkHost    = "host"
)

// Address is the address of a BuildKit daemon.
type Address struct {
	// URL is unix:///path/of/socket or tcp://host:port.
	URL string
	// TLS is required for every tcp address that is not loopback.
	TLS *TLS
}

// TLS holds the paths of the PEM files for a mutually authenticated connection.
type TLS struct {
	CA, Cert, Key string
	// ServerName is the name in the certificate of the daemon; the host of the URL if empty.
	ServerName string
}

// Registry is the part of an image registry client that the runtime needs. Errors are
// *builds.ImageError; any other error means that the registry cannot be reached.
type Registry interface {
	// Head returns the image or index at exactly this ref, read with rights.
	Head(ctx context.Context, ref string, rights *buildsv1.Rights) (builds.Image, error)
	// Resolve returns the image with its size. If ref names an index, it returns the image for the
	// platform.
	Resolve(ctx context.Context, ref, platform string, rights *buildsv1.Rights) (builds.Image, error)
}

// Contexts opens uploaded build contexts.
type Contexts interface {
	// Open returns the tar archive with that digest (`sha256:` and hex). The caller closes it.
	Open(ctx context.Context, digest string) (io.ReadCloser, error)
}

// Route translates image names for a daemon that must not reach registries directly, for example
// because it uses a proxy beside it. A name that is translated already is returned unchanged.
type Route interface {
	// Pull translates the ref of a base image.
	Pull(ref string) (string, error)
	// Push translates a repository that builds push to.
	Push(repository string) (string, error)
	// Cache translates the ref of a build cache image.
	Cache(ref string) (string, error)
}

// Credentials returns the credential for a registry host (docker.io for Docker Hub). For pulls it
// returns what the rights allow, for pushes the credential of the install. Empty strings mean
// anonymous access; an empty user with a password means an identity token.
type Credentials func(ctx context.Context, host string, rights *buildsv1.Rights, push bool) (user, password string, err error)

// Options configures a Runtime.
type Options struct {
	// Daemons are the BuildKit daemons to choose from. At least one is required.
	Daemons []Address
	// Registry is required.
	Registry Registry
	// Credentials is required.
	Credentials Credentials
	// Contexts opens uploads. If nil, builds of uploads are refused.
	Contexts Contexts
	// HTTP downloads files of contexts, and asks git servers whether a request may read a
	// repository. The addresses come from requests, so its dialer should refuse internal addresses.
	// Required.
	HTTP *http.Client
	// TempDir is the folder where uploads and downloads are unpacked; each is removed when its
	// solve has ended. It is created if missing, and belongs to this runtime alone: New removes the
	// contexts that a killed process left there. If empty, os.TempDir() is used, and such leftovers
	// stay.
	TempDir string
	// ContextBytes and ContextFiles limit one unpacked context. Zero means 2 GiB and 200,000 files.
	ContextBytes int64
	ContextFiles int
	// CacheRepository is the repository for the build cache, with one tag for each cache key. If
	// empty, there is no registry cache.
	CacheRepository string
	// Frontends are the images, with or without tag or digest, that a `# syntax=` line may name.
	// docker/dockerfile is always accepted: unless it is listed, the frontend that is built into
	// the daemon replaces it.
	Frontends []string
	// Networks are the network modes that requests may choose: "default", "none" and "host". If
	// empty, the first two are allowed.
	Networks []string
	// Route, if set, translates the names of all images that the daemons pull and push. Registry
	// and outcomes keep the original names; Credentials receives the translated hosts.
	Route Route
	// DaemonWait is how long a workload waits while no daemon responds; then it fails and the
	// infrastructure is to blame. If zero, it waits until the deadline of the workload.
	DaemonWait time.Duration
	// Tracer makes spans of calls to the daemons and passes the trace on to them; nil for none.
	Tracer trace.TracerProvider
	// Log is required.
	Log *slog.Logger
}

// Validate sets defaults and returns an error that describes the first invalid option.
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
		return fmt.Errorf("buildkit: daemon address %q needs TLS: anyone who can connect to a daemon without TLS controls its machine", a.URL)
	}
	return nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
