package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/ecr"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// ownECR is a provider in the place of Amazon's.
type ownECR struct{}

func (ownECR) Name() string { return "ecr" }

func (ownECR) Matches(host string) bool { return ecr.Private(host) }

func (ownECR) Login(_ context.Context, host string) (registry.Login, error) {
	if strings.HasPrefix(host, "3") {
		return registry.Login{}, errors.New("no such account")
	}
	return registry.Login{Username: "AWS", Password: "token-of-" + host, Expires: time.Now().Add(time.Hour)}, nil
}

// Test_Readable_TellsWhereAProviderFails: a credential that only cannot be had now is not none;
// hosts without one do no harm.
func Test_Readable_TellsWhereAProviderFails(t *testing.T) {
	client, err := registry.New(registry.Options{Providers: []registry.Provider{ownECR{}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	const good, bad = "123456789012.dkr.ecr.eu-central-1.amazonaws.com", "323456789012.dkr.ecr.eu-central-1.amazonaws.com"
	c := podCredentials{&Node{registry: client}}
	got, failed := c.Readable(t.Context(), &buildsv1.Rights{Hosts: []string{good, "anonymous.example.com"}})
	if len(failed) > 0 || len(got) != 1 || got[good] != (proxy.Auth{User: "AWS", Password: "token-of-" + good}) {
		t.Errorf("%d credentials, %v", len(got), failed)
	}
	if got, failed := c.Readable(t.Context(), &buildsv1.Rights{Hosts: []string{good, bad}}); len(got) != 1 || len(failed) != 1 || failed[bad] == nil {
		t.Errorf("%d credentials, failed %v", len(got), failed)
	}
}
