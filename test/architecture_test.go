// Package test checks the structure of the whole module. The packages below it test real processes
// on real sockets.
package test

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/image-builder-ha/image-builder/"

// Test_Imports keeps imports pointing one way (ARCHITECTURE.md, Rooms).
func Test_Imports(t *testing.T) {
	for pkg, forbidden := range map[string][]string{
		"builds":                      {module + "cluster", module + "registry", module + "scheduler", module + "cmd", "github.com/hashicorp/raft", "github.com/google/go-containerregistry", "k8s.io/", "github.com/moby/buildkit"},
		"builds/logs":                 {module + "cluster", module + "registry", module + "scheduler", "google.golang.org/grpc"},
		"cluster":                     {module + "builds", module + "registry", module + "scheduler", module + "proto/imagebuilder", module + "proto/builds"},
		"registry":                    {module + "builds", module + "cluster", module + "scheduler", module + "proto"},
		"scheduler":                   {module + "cluster", module + "registry", module + "cmd", "github.com/moby/buildkit", "k8s.io/", "github.com/google/go-containerregistry"},
		"scheduler/buildkit":          {module + "cluster", module + "cmd", "k8s.io/"},
		"scheduler/kubernetes/podapi": {module + "cluster", module + "registry", module + "cmd", "github.com/moby/buildkit", "k8s.io/"},
		"scheduler/kubernetes/proxy":  {module + "cluster", module + "builds", module + "cmd", "github.com/moby/buildkit", "k8s.io/"},
		"scheduler/kubernetes/worker": {module + "cluster", module + "cmd", "k8s.io/"},
		"scheduler/copy":              {module + "cluster", module + "registry", module + "cmd", "github.com/moby/buildkit"},
	} {
		out, err := exec.Command("go", "list", "-deps", module+pkg).Output()
		if err != nil {
			t.Fatalf("go list %s: %v", pkg, err)
		}
		for _, dep := range strings.Fields(string(out)) {
			if dep == module+"cluster/faults" {
				continue // switches that only test builds have
			}
			for _, f := range forbidden {
				if dep == f || strings.HasPrefix(dep, strings.TrimSuffix(f, "/")+"/") {
					t.Errorf("%s imports %s", pkg, dep)
				}
			}
		}
	}
}
