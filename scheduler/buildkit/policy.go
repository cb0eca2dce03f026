package buildkit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// policy decides which sources one solve may use. The daemon asks it before it resolves or loads a
// source, whether the source is cached or not. The name of a source may come from FROM, COPY
// --from, a mount, an argument, ONBUILD in a base image, or a syntax line; parsing the Dockerfile
// could not find them all.
type policy struct {
	registry Registry
	http     *http.Client
	git      *gitContext // nil if the context is no git repository
	rights   *buildsv1.Rights
	secrets  map[string][]byte // build secrets of the request
	route    Route             // nil for none

	mu      sync.Mutex
	allowed map[string]bool // sources that were checked
	refused *workload.Failure
}

// check implements the callback of the session. It keeps the first refusal, whose reason becomes
// the reason of the failure of the build.
func (p *policy) check(ctx context.Context, req *policysession.CheckPolicyRequest) (*policysession.DecisionResponse, *gatewaypb.ResolveSourceMetaRequest, error) {
	op := req.GetSource().GetSource()
	f := p.decide(ctx, op)
	if f == nil {
		var decision *policysession.DecisionResponse
		if decision, f = p.renamed(op); f == nil {
			return decision, nil, nil
		}
	}
	p.mu.Lock()
	if p.refused == nil {
		p.refused = f
	}
	p.mu.Unlock()
	return &policysession.DecisionResponse{
		Action:       spb.PolicyAction_DENY,
		DenyMessages: []*policysession.DenyMessage{{Message: f.Message}},
	}, nil, nil
}

// renamed allows a source, under the name by which the daemon reaches it.
func (p *policy) renamed(op *pb.SourceOp) (*policysession.DecisionResponse, *workload.Failure) {
	const images = "docker-image://"
	allowed := &policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW}
	ref, isImage := strings.CutPrefix(op.GetIdentifier(), images)
	if p.route == nil || !isImage {
		return allowed, nil
	}
	name, err := p.route.Pull(ref)
	if err != nil {
		return nil, userFailure(fmt.Errorf("cannot use the base image: %w", err))
	}
	if name == ref {
		return allowed, nil
	}
	p.allow(name) // the daemon asks again, for the new name
	return &policysession.DecisionResponse{
		Action: spb.PolicyAction_CONVERT,
		Update: &pb.SourceOp{Identifier: images + name, Attrs: op.GetAttrs()},
	}, nil
}

// refusal returns the first refusal, or nil if there was none.
func (p *policy) refusal() *workload.Failure {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

func (p *policy) decide(ctx context.Context, op *pb.SourceOp) *workload.Failure {
	scheme, rest, _ := strings.Cut(op.GetIdentifier(), "://")
	switch scheme {
	case "local", "http", "https":
		// A local source is the context that this process sends. The daemon fetches URLs without
		// credentials, and again each time.
		return nil
	case "docker-image":
		return p.image(ctx, rest)
	case "git":
		return p.repository(ctx, op.GetAttrs()[pb.AttrFullRemoteURL])
	}
	return userFailure(fmt.Errorf("sources of the kind %q are not supported", scheme))
}

// image allows an image that can be read with the rights of the request.
func (p *policy) image(ctx context.Context, ref string) *workload.Failure {
	// BuildKit asks twice: by tag, and then by tag and digest.
	tagged, _, digested := strings.Cut(ref, "@")
	if p.seen(ref) || digested && tagged != repository(tagged) && p.seen(tagged) {
		return nil
	}
	_, err := p.registry.Head(ctx, ref, p.rights)
	if err == nil {
		p.allow(ref)
		return nil
	}
	switch builds.ImageErrorKindOf(err) {
	case builds.ImageNotFound:
		return userFailure(fmt.Errorf("base image does not exist: %w", err))
	case builds.ImageUnauthorized:
		return userFailure(fmt.Errorf("no right to use the base image: %w", err))
	case builds.ImageInvalid:
		return userFailure(fmt.Errorf("cannot use the base image: %w", err))
	}
	return infrastructureFailure(fmt.Errorf("look up the base image: %w", err))
}

// repository allows a git repository that the request can read. For the repository of the context
// it uses that credential, for others the git credentials in the build secrets, and no credential
// if there is none.
func (p *policy) repository(ctx context.Context, remote string) *workload.Failure {
	if p.seen(remote) {
		return nil
	}
	header := gitHeader(p.secrets, remote)
	if p.git != nil && p.git.is(remote) {
		header = p.git.header
	}
	var f *workload.Failure
	if err := gitReadable(ctx, p.http, remote, header); errors.As(err, &f) {
		return f
	} else if err != nil {
		return infrastructureFailure(err)
	}
	p.allow(remote)
	return nil
}

// seen reports whether a source has been allowed before.
func (p *policy) seen(ref string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.allowed[ref]
}

func (p *policy) allow(ref string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.allowed == nil {
		p.allowed = map[string]bool{}
	}
	p.allowed[ref] = true
}

// repository returns a ref without its tag.
func repository(ref string) string {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i]
	}
	return ref
}
