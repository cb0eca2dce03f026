package node

import (
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/config"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// Test_Readable_TellsWhereAProviderFails: a credential that only cannot be had now is
// not none; hosts without one do no harm.
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

// cannot be asked.
func Test_PodPeers_AwayAPI(t *testing.T) {
	n := &Node{cfg: config.Config{Cluster: config.ClusterConfig{Peers: []string{"a:1"}, Kubernetes: config.PeersConfig{Namespace: "n", Service: "s"}}}}
	n.peersAPI = func() (kubernetes.Client, error) { return kubernetes.Connect("/nowhere", 0, 0) }
	got, err := n.discover(t.Context())
	if len(got) != 1 || got[0] != "a:1" || err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("got %v, %v", got, err)
	}
}
