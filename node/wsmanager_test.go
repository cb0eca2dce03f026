package node

import (
	"strings"
	"testing"
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/ecr"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Test_PushedImage_AsksTheRegistry checks that the digest of a build is that which the workspace
// has pushed. The workspace pushes without the client of the node, whose cache may be out of date.
func Test_PushedImage_AsksTheRegistry(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	client, err := registry.New(registry.Options{AllowLoopback: true, CacheFor: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	n := &Node{registry: client}
	ref := reg.Addr + "/workspace-images:1"
	for range 2 {
		want := reg.Push(t, "workspace-images:1", registrytest.RandomImage(t, 1, 100))
		if img, err := n.pushedImage(t.Context(), ref); err != nil || img.Digest != want {
			t.Fatalf("the workspace pushed %s, the node returns %s, %v", want, img.Digest, err)
		}
	}
	if err := (registryAdapter{client}).Publish(t.Context(), reg.Addr+"/workspace-images@"+reg.Digest(t, "workspace-images:1"), ref); err != nil {
		t.Fatal(err)
	}
}

// Test_AdditionalAuth checks that the proxy of a build workspace gets the credentials of the
// request and, if configured, tokens for registries of Amazon.
func Test_AdditionalAuth(t *testing.T) {
	client, err := registry.New(registry.Options{Providers: []registry.Provider{fakeECR{}}, AllowedByDefault: ecr.Private})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	const images, bases = "111111111111.dkr.ecr.eu-west-1.amazonaws.com", "222222222222.dkr.ecr.eu-west-1.amazonaws.com"
	w := &workload.Workload{
		Ref: images + "/workspace-images:1", BaseRef: bases + "/base@sha256:" + strings.Repeat("a", 64),
		Rights: &buildsv1.Rights{Additional: map[string]*imagebuilderv1.BasicAuth{
			"r.example.com": {Username: "u", Password: "p"}, images: {Username: "evil", Password: "p"}, "https://" + images + "/": {Username: "evil", Password: "p"},
		}},
	}
	n := &Node{registry: client}
	got, err := n.additionalAuth(t.Context(), w)
	if err != nil || len(got) != 1 || got["r.example.com"].GetUsername() != "u" {
		t.Errorf("without ECR: %v, %v", got, err)
	}
	n.cfg.Orchestrator.EnableAdditionalECRAuth = true
	got, err = n.additionalAuth(t.Context(), w)
	if err != nil || len(got) != 3 || got[images].GetPassword() != "token-of-"+images || got[bases].GetPassword() != "token-of-"+bases {
		t.Errorf("with ECR: %v, %v", got, err)
	}
	w.Ref = "333333333333.dkr.ecr.eu-west-1.amazonaws.com/workspace-images:1"
	if _, err := n.additionalAuth(t.Context(), w); err == nil || !strings.Contains(err.Error(), "333333333333") {
		t.Errorf("an account without a token: %v", err)
	}
}
