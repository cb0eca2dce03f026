package api_test

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/image-builder-ha/image-builder/api"
)

type vectors struct {
	BaseRepository      string `json:"base_image_repository"`
	WorkspaceRepository string `json:"workspace_image_repository"`
	Dockerfiles         []struct {
		DockerfilePath    string `json:"dockerfile_path"`
		DockerfileVersion string `json:"dockerfile_version"`
		ContextPath       string `json:"context_path"`
		RemoteURI         string `json:"remote_uri"`
		CloneTarget       string `json:"clone_taget"`
		BaseRef           string `json:"base_ref"`
		WorkspaceRef      string `json:"workspace_ref"`
	} `json:"dockerfile_sources"`
	WorkspaceRefs []struct {
		BaseRef      string `json:"base_ref"`
		WorkspaceRef string `json:"workspace_ref"`
	} `json:"workspace_refs"`
}

func loadVectors(t *testing.T) vectors {
	t.Helper()
	raw, err := os.ReadFile("testdata/gitpod-ref-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func Test_Refs_Vectors(t *testing.T) {
	v := loadVectors(t)
	if len(v.Dockerfiles) != 4 || len(v.WorkspaceRefs) != 2 {
		t.Fatalf("got %d and %d vectors, want 4 and 2", len(v.Dockerfiles), len(v.WorkspaceRefs))
	}
	for _, d := range v.Dockerfiles {
		key := api.DockerfileKey{
			RemoteURI: d.RemoteURI, CloneTarget: d.CloneTarget, DockerfilePath: d.DockerfilePath,
			DockerfileVersion: d.DockerfileVersion, ContextPath: d.ContextPath,
		}
		if got := key.BaseRef(v.BaseRepository); got != d.BaseRef {
			t.Errorf("base ref of %q: got %s, want %s", d.RemoteURI, got, d.BaseRef)
		}
		if got := api.WorkspaceRef(v.WorkspaceRepository, d.BaseRef); got != d.WorkspaceRef {
			t.Errorf("workspace ref of %q: got %s, want %s", d.RemoteURI, got, d.WorkspaceRef)
		}
	}
	for _, w := range v.WorkspaceRefs {
		if got := api.WorkspaceRef(v.WorkspaceRepository, w.BaseRef); got != w.WorkspaceRef {
			t.Errorf("workspace ref of %s: got %s, want %s", w.BaseRef, got, w.WorkspaceRef)
		}
	}
}
