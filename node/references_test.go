package node

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/request"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// apis returns both APIs over a real cluster and a real registry. The registry stands for all hosts
// of the vectors in the contract.
func apis(t *testing.T) (api.Native, api.Gitpod, *registrytest.Registry) {
	t.Helper()
	reg := registrytest.Start(t, registrytest.Options{})
	client, err := registry.New(registry.Options{
		Dial:     registrytest.DialTo(map[string]string{"docker.io": reg.Addr, "registry.example.com": reg.Addr, "host": reg.Addr}),
		Insecure: []string{"docker.io", "index.docker.io", "registry.example.com", "host:5000"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	keys := filepath.Join(t.TempDir(), "keys")
	if err := secrets.NewKeyFile(keys); err != nil {
		t.Fatal(err)
	}
	ring, err := secrets.LoadKeyring(keys)
	if err != nil {
		t.Fatal(err)
	}
	store := builds.NewStore()
	node, err := cluster.New(cluster.Config{
		Name: "n1", DataDir: t.TempDir(), StateMachine: store, Prepare: builds.Preparer{Keyring: ring}.Prepare,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close() })
	cfg := config.Default()
	cfg.Orchestrator.BaseImageRepository = "registry.example.com/base-images"
	cfg.Orchestrator.WorkspaceImageRepository = "registry.example.com/workspace-images"
	svc := api.NewService(api.ServiceOptions{
		Store: store, Raft: raftAdapter{node}, Registry: registryAdapter{client},
		Repositories: repositories(cfg), Timeout: time.Hour, MaxTimeout: time.Hour,
	})
	return api.Native{Service: svc}, api.Gitpod{Service: svc}, reg
}

// Test_Vectors_RealRegistry checks the image refs of both APIs against the vectors of the contract
// (docs/gitpod-contract.md, section 6).
func Test_Vectors_RealRegistry(t *testing.T) {
	native, gitpod, reg := apis(t)
	raw, err := os.ReadFile("../api/testdata/gitpod-ref-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Dockerfiles []struct {
			Path    string `json:"dockerfile_path"`
			Version string `json:"dockerfile_version"`
			Context string `json:"context_path"`
			URI     string `json:"remote_uri"`
			Target  string `json:"clone_taget"`
			Base    string `json:"base_ref"`
			Ref     string `json:"workspace_ref"`
		} `json:"dockerfile_sources"`
		Refs []struct {
			Base string `json:"base_ref"`
			Ref  string `json:"workspace_ref"`
		} `json:"workspace_refs"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i, d := range v.Dockerfiles {
		n, nerr := native.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: &imagebuilderv1.Source{
			From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{
				Context:        &imagebuilderv1.DockerfileSource_Git{Git: &imagebuilderv1.GitContext{RemoteUri: d.URI, CloneTarget: d.Target}},
				DockerfilePath: d.Path, DockerfileVersion: d.Version, ContextPath: d.Context,
			}},
		}})
		g, gerr := gitpod.ResolveWorkspaceImage(ctx, &builder.ResolveWorkspaceImageRequest{Source: &builder.BuildSource{
			From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{
				Source: &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{
					Git: &contentservice.GitInitializer{RemoteUri: d.URI, CloneTaget: d.Target},
				}},
				DockerfilePath: d.Path, DockerfileVersion: d.Version, ContextPath: d.Context,
			}},
		}})
		if i >= 2 {
			if status.Code(nerr) != codes.InvalidArgument || status.Code(gerr) != codes.InvalidArgument {
				t.Errorf("vector %d: %v and %v, want INVALID_ARGUMENT", i+1, nerr, gerr)
			}
			continue
		}
		if nerr != nil || gerr != nil || n.Ref != d.Ref || g.Ref != d.Ref || n.BaseRef != d.Base || g.BaseRef != d.Base {
			t.Errorf("vector %d: %v %v, %v %v", i+1, n, nerr, g, gerr)
		}
	}
	// The vector with base_image_name_resolved, which names base-images:abc.
	reg.Push(t, "base-images:abc", registrytest.RandomImage(t, 1, 100))
	res, err := native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
		Source: request.RefSource("ubuntu"), BaseImageNameResolved: v.Refs[1].Base,
	})
	if err != nil || res.Build.Ref != v.Refs[1].Ref || res.Build.BaseRef != v.Refs[1].Base {
		t.Errorf("base_image_name_resolved: %v, %v", res, err)
	}
}

// Test_ReferenceForms checks that both APIs resolve all forms of image references alike.
func Test_ReferenceForms(t *testing.T) {
	native, gitpod, reg := apis(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img := registrytest.RandomImage(t, 1, 100)
	digest := reg.Push(t, "library/ubuntu:latest", img)
	reg.Push(t, "library/ubuntu:22.04", img)
	reg.Push(t, "a/b:t", img)
	index := registrytest.Index(t, "linux/arm64", "linux/amd64")
	reg.Push(t, "multi:1", index)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	amd64 := manifest.Manifests[1].Digest.String()
	for ref, want := range map[string]string{
		"ubuntu":                               "docker.io/library/ubuntu@" + digest,
		"ubuntu:22.04":                         "docker.io/library/ubuntu@" + digest,
		"docker.io/ubuntu":                     "docker.io/library/ubuntu@" + digest,
		"index.docker.io/library/ubuntu":       "docker.io/library/ubuntu@" + digest,
		"ubuntu:nope@" + digest:                "docker.io/library/ubuntu@" + digest,
		"ubuntu@" + digest:                     "docker.io/library/ubuntu@" + digest,
		"host:5000/a/b:t":                      "host:5000/a/b@" + digest,
		"registry.example.com/multi:1":         "registry.example.com/multi@" + amd64,
		"docker.io/Library/ubuntu":             "",
		"ubuntu@sha256:12":                     "",
		"https://docker.io/library/ubuntu":     "",
		"ubuntu:" + strings.Repeat("x", 1<<20): "",
	} {
		g, gerr := gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: ref})
		n, nerr := native.ResolveBaseImage(ctx, &imagebuilderv1.ResolveBaseImageRequest{Ref: ref})
		if want == "" {
			if status.Code(gerr) != codes.InvalidArgument || status.Code(nerr) != codes.InvalidArgument {
				t.Errorf("%.60s: %v and %v, want INVALID_ARGUMENT", ref, gerr, nerr)
			}
			continue
		}
		if g.GetRef() != want || n.GetRef() != want {
			t.Errorf("%s: got %s %v and %s %v, want %s", ref, g.GetRef(), gerr, n.GetRef(), nerr, want)
		}
	}
}
