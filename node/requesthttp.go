package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// requestHTTP returns an HTTP client for addresses that come from requests. It refuses internal
// addresses, as the registry client does. The caller closes its idle connections.
func (n *Node) requestHTTP() *http.Client {
	o := RegistryOptions(n.cfg, n.log, nil)
	policy := registry.AddressPolicy{AllowHosts: o.AllowHosts, AllowLoopback: o.AllowLoopback}
	return &http.Client{
		Timeout: 5 * time.Minute,
		Transport: &http.Transport{
			DialContext:           registry.GuardedDial(policy),
			Proxy:                 registry.GuardedProxy(policy, http.ProxyFromEnvironment),
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second,
			IdleConnTimeout:       time.Minute,
		},
	}
}

// resolveCommit returns the id of the commit that a git context names now. A refusal of the git
// server is FAILED_PRECONDITION, a git server that does not respond UNAVAILABLE.
func (n *Node) resolveCommit(ctx context.Context, g *imagebuilderv1.GitContext, secrets *buildsv1.Secrets) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := n.requestHTTP()
	defer client.CloseIdleConnections()
	id, err := buildkit.ResolveCommit(ctx, client, g, secrets)
	var refused *workload.Failure
	switch {
	case err == nil:
		return id, nil
	case errors.As(err, &refused) && refused.Blame == builds.BlameUser:
		return "", codedError{err, codes.FailedPrecondition}
	}
	return "", codedError{fmt.Errorf("the git server cannot be asked now, try again: %w", err), codes.Unavailable}
}

// redeemOneTimeURL fetches a one-time URL, whose response is `user:password`. Its errors do not
// contain the URL, which is a secret.
func (n *Node) redeemOneTimeURL(ctx context.Context, url string) (user, password string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", "", fmt.Errorf("the one-time URL is not valid")
	}
	client := n.requestHTTP()
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return "", "", fmt.Errorf("the one-time URL does not answer")
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	user, password, ok := strings.Cut(strings.TrimSpace(string(raw)), ":")
	if err != nil || res.StatusCode != http.StatusOK || !ok {
		return "", "", fmt.Errorf("the one-time URL answered %d and no user:password", res.StatusCode)
	}
	return user, password, nil
}
