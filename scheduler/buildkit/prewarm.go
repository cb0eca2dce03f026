package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/image-builder-ha/image-builder/scheduler/refcache"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"golang.org/x/sync/errgroup"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// InstallCredential returns the credential of the install for a repository of a registry host, or
// for the host itself if repository is empty. Empty strings mean anonymous access; an empty user
// with a password means an identity token.
type InstallCredential func(ctx context.Context, host, repository string) (user, password string, err error)

// Warmer makes one daemon pull base images before builds need them.
type Warmer struct {
	daemon     *endpoint
	runtime    *Runtime
	credential InstallCredential
}

var _ refcache.Daemon = (*Warmer)(nil)

// Warmers returns one Warmer for each daemon. They pull images under their original names:
// Options.Route has no effect.
func (r *Runtime) Warmers(credential InstallCredential) (all []*Warmer) {
	for _, e := range r.pool.daemons {
		all = append(all, &Warmer{daemon: e, runtime: r, credential: credential})
	}
	return all
}

// URL returns the address of the daemon.
func (w *Warmer) URL() string { return w.daemon.url }

// Shared reports whether the address means the same daemon on other machines.
func (w *Warmer) Shared() bool {
	u, err := url.Parse(w.daemon.url)
	return err == nil && u.Scheme == "tcp" && !loopback(u.Hostname())
}

// Cache returns the ids of the daemon's workers, which are stored with its cache: another cache has
// other ids. It takes at most 3 s.
func (w *Warmer) Cache(ctx context.Context) (string, error) {
	ids, err := w.daemon.workers(ctx, pingTimeout)
	slices.Sort(ids)
	return strings.Join(ids, " "), err
}

// Pull makes the daemon pull and unpack the image ref@digest for the daemon's own platform, unless
// it has the image already. A daemon opens four connections to a registry host for all of its
// pulls, first come, first served. Therefore Pull pulls one layer after the other, so that builds
// find free connections. It does not count as a solve of the pool, and leaves no history.
func (w *Warmer) Pull(ctx context.Context, ref, digest string) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return fmt.Errorf("%q is no image reference: %w", ref, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	given := &givenCredential{credential: w.credential, host: reference.Domain(named), repository: reference.Path(named)}
	var group errgroup.Group
	group.Go(func() error {
		w.daemon.watch(ctx, w.runtime.watchInterval, func(err error) { cancel(err) })
		return nil
	})
	_, err = w.daemon.client.Build(ctx, client.SolveOpt{
		Internal: true,
		Session:  []session.Attachable{&authenticator{credentials: given.lookUp}},
	}, "", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		return gateway.NewResult(), pullLayers(ctx, c, ref+"@"+digest)
	}, nil)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	cancel(nil)
	_ = group.Wait() // the watch does not fail
	if err == nil {
		return nil
	}
	return given.safe(err)
}

// pullLayers pulls and unpacks the layers of an image, from the lowest up. Solving alone reads only
// the manifest: the daemon fetches a layer when a file in it is read.
func pullLayers(ctx context.Context, c gateway.Client, image string) error {
	workers := c.BuildOpts().Workers
	if len(workers) == 0 || len(workers[0].Platforms) == 0 {
		return errors.New("it has no worker")
	}
	platform := workers[0].Platforms[0]
	_, _, raw, err := c.ResolveImageConfig(ctx, image, sourceresolver.Opt{ImageOpt: &sourceresolver.ResolveImageOpt{Platform: &platform}})
	if err != nil {
		return err
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return fmt.Errorf("read the image's config: %w", err)
	}
	for n := range config.RootFS.DiffIDs {
		def, err := llb.Image(image, llb.Platform(platform), llb.WithLayerLimit(n+1)).Marshal(ctx)
		if err != nil {
			return err
		}
		res, err := c.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB()})
		if err != nil {
			return err
		}
		top, err := res.SingleRef()
		if err != nil {
			return err
		}
		if _, err := top.StatFile(ctx, gateway.StatRequest{Path: "/"}); err != nil {
			return err
		}
	}
	return nil
}

// givenCredential serves the credential requests of a daemon that pulls one image, and records the
// passwords that errors must not contain.
type givenCredential struct {
	credential       InstallCredential
	host, repository string

	mu      sync.Mutex
	secrets []string
}

// lookUp returns the credential of the install: for the host of the image the one of its
// repository, for other hosts, which are mirrors, the one of the host.
func (g *givenCredential) lookUp(ctx context.Context, host string, _ *buildsv1.Rights, _ bool) (user, password string, err error) {
	repository := ""
	if host == g.host {
		repository = g.repository
	}
	user, password, err = g.credential(ctx, host, repository)
	if password != "" {
		g.mu.Lock()
		g.secrets = append(g.secrets, password)
		g.mu.Unlock()
	}
	return user, password, err
}

// queries matches the query strings of URLs that registries redirect to: they contain signatures.
var queries = regexp.MustCompile(`\?[^\s"]*`)

// safe returns an error without secrets, which may be shown.
func (g *givenCredential) safe(err error) error {
	text := queries.ReplaceAllString(plain(err), "?...")
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.secrets {
		text = strings.ReplaceAll(text, s, "***")
	}
	return errors.New(text)
}
