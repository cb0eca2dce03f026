package main

import (
	"testing"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// Test_Readable_FailsWhereAProviderDoes: a pod is not made without a credential
// that only cannot be had now; hosts without one do no harm.
func Test_Readable_FailsWhereAProviderDoes(t *testing.T) {
	client, err := registry.New(registry.Options{Providers: []registry.Provider{ownECR{}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	const good, bad = "123456789012.dkr.ecr.eu-central-1.amazonaws.com", "323456789012.dkr.ecr.eu-central-1.amazonaws.com"
	c := podCredentials{&server{registry: client}}
	got, err := c.Readable(t.Context(), &buildsv1.Rights{Hosts: []string{good, "anonymous.example.com"}})
	if err != nil || len(got) != 1 || got[good] != (proxy.Auth{User: "AWS", Password: "token-of-" + good}) {
		t.Errorf("%d credentials, %v", len(got), err)
	}
	if got, err := c.Readable(t.Context(), &buildsv1.Rights{Hosts: []string{good, bad}}); err == nil {
		t.Errorf("%d credentials and no error though one failed", len(got))
	}
}
