// Package test checks the structure of the whole module. The packages below it test real processes
// on real sockets.
package test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/image-builder-ha/image-builder/"

// layers is the place of every package, the lowest layer first. A package imports only packages of
// lower layers (ARCHITECTURE.md, Packages). A name that ends in /... places all packages below it.
var layers = [][]string{
	{"cluster/clock", "cluster/datadir", "cluster/serverid", "faults", "internal/ctxutil", "internal/inflight", "internal/loglimit", "internal/sbom", "proto/...", "test/testkit"},
	{"tracing", "builds/logs", "builds/secrets", "cluster/gossip", "cluster/hashes", "cluster/pki", "cluster/raftguard", "cluster/raftlog", "cluster/restorefiles", "cluster/snapshot", "registry", "client", "verify/history", "web"},
	{"cluster/fsm", "cluster/transport"},
	{"tracing/otlp", "tracing/tracetest", "internal/buildsteps", "builds", "cluster", "cluster/disktest", "registry/azure", "registry/ecr", "registry/google", "registry/registrytest", "verify"},
	{"builds/buildstest", "builds/logs/peer", "cluster/clustertest", "api", "scheduler/workload", "scheduler/placement", "scheduler/refcache"},
	{"api/loginfo", "scheduler", "scheduler/schedulertest", "scheduler/buildkit", "scheduler/copy", "scheduler/wsmanager/...", "scheduler/kubernetes/podapi", "scheduler/kubernetes/proxy"},
	{"scheduler/owner", "scheduler/kubernetes", "scheduler/kubernetes/worker"},
	{"config"},
	{"node"},
	{"cmd/image-builder/cli"},
	{"cmd/image-builder/follow", "cmd/image-builder/request"},
	{"cmd/image-builder/dev"},
	{"cmd/image-builder"},
	{"test/docs", "test/harness", "test/knownfault"},
	{"test/harness/buildkittest", "test/netns"},
	{"test/..."},
}

// forbidden are packages, of this module or others, that a package must not depend on, not even
// through others.
var forbidden = map[string][]string{
	"builds":                      {module + "cluster", module + "registry", module + "scheduler", module + "api", "github.com/hashicorp/raft", "github.com/google/go-containerregistry", "k8s.io/", "github.com/moby/buildkit"},
	"builds/logs":                 {module + "cluster", module + "registry", module + "scheduler", "google.golang.org/grpc"},
	"cluster":                     {module + "builds", module + "registry", module + "scheduler", module + "proto/imagebuilder", module + "proto/builds"},
	"cluster/raftlog":             {module + "proto", "google.golang.org/grpc"},
	"cluster/raftguard":           {module + "proto", "google.golang.org/grpc"},
	"cluster/fsm":                 {module + "builds", "github.com/hashicorp/raft-wal"},
	"registry":                    {module + "builds", module + "cluster", module + "scheduler", module + "proto"},
	"scheduler":                   {module + "cluster", module + "registry", "github.com/moby/buildkit", "k8s.io/", "github.com/google/go-containerregistry"},
	"scheduler/owner":             {module + "cluster", module + "registry", "github.com/moby/buildkit", "k8s.io/", "github.com/google/go-containerregistry"},
	"scheduler/buildkit":          {module + "cluster", "k8s.io/"},
	"scheduler/kubernetes/podapi": {module + "cluster", module + "registry", "github.com/moby/buildkit", "k8s.io/"},
	"scheduler/kubernetes/proxy":  {module + "cluster", module + "builds", "github.com/moby/buildkit", "k8s.io/"},
	"scheduler/kubernetes/worker": {module + "cluster", "k8s.io/"},
	"scheduler/copy":              {module + "cluster", module + "registry", "github.com/moby/buildkit"},
	"api":                         {module + "cluster", module + "registry", module + "scheduler"},
	"client":                      {module + "builds", module + "api", module + "cluster"},
}

// pure are packages whose own files use no gRPC, neither calls nor status codes.
var pure = []string{"builds", "builds/logs", "cluster/clock", "cluster/fsm", "cluster/hashes", "scheduler/workload", "verify/history"}

// list runs `go list` and returns the fields of each line of its output.
func list(t *testing.T, args ...string) (lines [][]string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir, cmd.Stderr = "..", os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v", strings.Join(args, " "), err)
	}
	for line := range strings.Lines(string(out)) {
		lines = append(lines, strings.Fields(line))
	}
	return lines
}

// layerOf returns the layer of a package, or -1.
func layerOf(pkg string) int {
	for i, layer := range layers {
		for _, name := range layer {
			if below, all := strings.CutSuffix(name, "/..."); pkg == name || all && (pkg == below || strings.HasPrefix(pkg, below+"/")) {
				return i
			}
		}
	}
	return -1
}

// Test_Imports_PointDown fails for an import of a higher or the same layer, and for a package that
// has no place.
func Test_Imports_PointDown(t *testing.T) {
	for _, line := range list(t, "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...") {
		pkg := strings.TrimPrefix(line[0], module)
		if pkg == "test" {
			continue
		}
		own := layerOf(pkg)
		if own < 0 {
			t.Errorf("%s has no place: add it to a layer here, and to ARCHITECTURE.md", pkg)
			continue
		}
		for _, i := range line[1:] {
			dep, ours := strings.CutPrefix(i, module)
			if !ours {
				continue
			}
			if l := layerOf(dep); l > own || l == own && own > 0 && !strings.HasPrefix(pkg, "test/") && !strings.HasPrefix(pkg, dep+"/") {
				t.Errorf("%s (layer %d) imports %s (layer %d)", pkg, own, dep, l)
			}
		}
	}
}

// Test_Imports_Forbidden looks at all dependencies, also those of dependencies.
func Test_Imports_Forbidden(t *testing.T) {
	for pkg, names := range forbidden {
		for _, dep := range list(t, "-deps", module+pkg) {
			for _, f := range names {
				if dep[0] == f || strings.HasPrefix(dep[0], strings.TrimSuffix(f, "/")+"/") {
					t.Errorf("%s depends on %s", pkg, dep[0])
				}
			}
		}
	}
}

// Test_Imports_PurePackages keeps gRPC out of the packages that decide.
func Test_Imports_PurePackages(t *testing.T) {
	for _, pkg := range pure {
		for _, line := range list(t, "-f", `{{range .Imports}}{{.}} {{end}}`, module+pkg) {
			if i := slices.IndexFunc(line, func(dep string) bool { return strings.HasPrefix(dep, "google.golang.org/grpc") }); i >= 0 {
				t.Errorf("%s imports %s", pkg, line[i])
			}
		}
	}
}

// Test_Architecture_NamesEveryPackage compares ARCHITECTURE.md with the packages of the module.
func Test_Architecture_NamesEveryPackage(t *testing.T) {
	raw, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range list(t, "./...") {
		pkg := strings.TrimPrefix(line[0], module)
		if strings.HasPrefix(pkg, "proto/") {
			pkg = "proto"
		}
		if !strings.Contains(string(raw), "`"+pkg+"/`") && !strings.Contains(string(raw), "`"+pkg+"`") {
			t.Errorf("ARCHITECTURE.md does not name `%s`", pkg)
		}
	}
}
