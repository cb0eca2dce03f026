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

// fakeECR is a provider of credentials in place of that of Amazon. It fails for accounts that begin
// with 3.
type fakeECR struct{}

func (fakeECR) Name() string { return "ecr" }

func (fakeECR) Matches(host string) bool { return ecr.Private(host) }

func (fakeECR) Login(_ context.Context, host string) (registry.Login, error) {
	if strings.HasPrefix(host, "3") {
		return registry.Login{}, errors.New("no such account")
	}
	return registry.Login{Username: "AWS", Password: "token-of-" + host, Expires: time.Now().Add(time.Hour)}, nil
}

// Test_Readable_ReportsFailedProviders checks that a credential that cannot be fetched now is
// reported as failed, and that a host without a credential is not.
func Test_Readable_ReportsFailedProviders(t *testing.T) {
	client, err := registry.New(registry.Options{Providers: []registry.Provider{fakeECR{}}})
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
