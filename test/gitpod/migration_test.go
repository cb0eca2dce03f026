package gitpod

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// existingConfig returns the configuration of an existing install, with all keys of section 7 of
// the contract. Nodes of the test override its gRPC address, because they share a host.
func existingConfig(in *install, wsCert, wsKey, ca, cert, key, pullSecretFile string) map[string]any {
	return map[string]any{
		"$schema": "https://example.com/schema.json",
		"orchestrator": map[string]any{
			"wsman":      map[string]any{"address": in.m.Address(), "tls": map[string]any{"ca": ca, "crt": wsCert, "key": wsKey}},
			"pullSecret": "pull", "pullSecretFile": pullSecretFile,
			"baseImageRepository": in.reg.Addr + "/base-images", "workspaceImageRepository": in.reg.Addr + "/workspace-images",
			"builderImage": "registry.example.com/bob:1", "enableAdditionalECRAuth": false,
			"subassemblyBucketName": "bucket", "subassemblyBucketPrefix": "prefix",
		},
		"refCache": map[string]any{"interval": "6h0m0s", "refs": []string{}},
		"server": map[string]any{"services": map[string]any{
			"grpc": map[string]any{"address": ":8080", "tls": map[string]any{"caPath": ca, "certPath": cert, "keyPath": key}},
			"http": map[string]any{"address": ":9999"},
		}},
	}
}

// Test_Migration follows docs/migration-gitpod.md: one node starts with the file of the former
// service, the cluster grows to three nodes, and is removed again.
func Test_Migration(t *testing.T) {
	ca := wsmanagertest.NewAuthority(t)
	in := newInstallWith(t, wsmanagertest.NewManager(t, ca.Server("ws-manager")))
	const former = "7f1b3a52-9f0e-4c55-8a4e-0d7c7a1d2b11"
	in.m.Update(former, func(s *wsman.WorkspaceStatus) {
		s.Phase = wsman.WorkspacePhase_RUNNING
		s.Metadata = &wsman.WorkspaceMetadata{Owner: "user-9", MetaId: former, Annotations: map[string]string{"managed-by": "image-builder"}}
	})
	dir := t.TempDir()
	secret := filepath.Join(dir, "pull.json")
	if err := os.WriteFile(secret, []byte(`{"auths": {"`+in.reg.Addr+`": {"auth": "dTpw"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	wsCert, wsKey := ca.Issue("image-builder")
	cert, key := ca.Issue("image-builder-mk3")
	raw, err := json.Marshal(existingConfig(in, wsCert, wsKey, ca.CA, cert, key, secret))
	if err != nil {
		t.Fatal(err)
	}
	existing := filepath.Join(dir, "image-builder.json")
	if err := os.WriteFile(existing, raw, 0o600); err != nil {
		t.Fatal(err)
	}

	// The second file has only keys that the first one lacks.
	c := harness.NewCluster(t, 1, in.reg.Addr, harness.Config{"orchestrator": nil})
	start := func(n *harness.Node) {
		in.logPort(n)
		n.Existing = existing
		n.Launch()
		n.AwaitReady()
	}
	start(c.Nodes[0])
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(ca.CA)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	ctx := testkit.Context(t, 4*time.Minute)
	build := func(n *harness.Node, which int) {
		t.Helper()
		conn, err := grpc.NewClient(n.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: "image-builder-mk3", MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12})))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		client := harness.Node{Gitpod: builder.NewImageBuilderClient(conn)}
		all, err := client.BuildGitpod(ctx, dockerfile(which))
		if err := success(all, err); err != nil {
			t.Errorf("through %s: %v", n.Name, err)
		}
	}
	build(c.Nodes[0], 1)
	for _, env := range in.m.Starts()[0].Spec.Envvars {
		if env.Name == "WORKSPACEKIT_BOBPROXY_AUTH" && (env.Secret.GetSecretName() != "pull" || env.Value != "") {
			t.Errorf("the workspace gets the pull secret as %v", env)
		}
	}
	start(c.Add())
	start(c.Add())
	testkit.Eventually(t, 60*time.Second, "three nodes vote", func() bool {
		res, err := c.Nodes[0].Members(ctx, false)
		return err == nil && res.FailureTolerance == 1
	})
	c.Leader().Kill()
	for i, n := range c.Running() {
		build(n, 2+i)
	}
	testkit.Eventually(t, 60*time.Second, "the nodes report the workspace of the former service", func() bool {
		body, _ := c.Running()[0].Get("http://" + c.Running()[0].Health + "/ready")
		return strings.Contains(body, "another image builder")
	})

	// The way back: the file has not changed, the former service finds the images, and its
	// workspace was not stopped.
	for _, n := range c.Running() {
		n.Kill()
	}
	if now, err := os.ReadFile(existing); err != nil || !bytes.Equal(now, raw) {
		t.Errorf("the file of the install has changed: %v", err)
	}
	for _, s := range in.m.Starts() {
		for _, ref := range []string{s.Metadata.Annotations["ref"], s.Metadata.Annotations["baseref"]} {
			if in.reg.Digest(t, strings.TrimPrefix(ref, in.reg.Addr+"/")) == "" {
				t.Errorf("%s is not in the registry", ref)
			}
		}
	}
	if len(in.m.Stops()) > 0 || in.m.Status(former) == nil {
		t.Errorf("workspaces were stopped: %v", in.m.Stops())
	}
}
