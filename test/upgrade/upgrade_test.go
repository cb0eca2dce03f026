// Package upgrade starts this version with data of former versions.
package upgrade

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/pki"

	"github.com/image-builder-ha/image-builder/cluster"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// write makes Test_Write write testdata with this version:
//
//	go test ./test/upgrade -run Write -write v0.1.0
var write = flag.String("write", "", "write testdata of this version")

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	harness.RemoveBinary()
	os.Exit(code)
}

// expectation is the content of a data directory.
type expectation struct {
	Registry string // address of the registry in the refs of the builds
	Builds   []expectedBuild
}

type expectedBuild struct {
	ID, Ref, Phase, Log string
	Requester           string
	RequestID           string
}

const password = "an-upgrade-password"

// Test_Write creates builds in several phases, snapshots and sealed secrets on a node, kills the
// node and saves its data. It runs only with the flag -write.
func Test_Write(t *testing.T) {
	if *write == "" {
		return
	}
	dir := t.TempDir()
	private := registrytest.Start(t, registrytest.Options{Users: map[string]string{"alice": password}})
	to := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.NewProxy(t, private)
	n := harness.New(t, dir, to.Addr, harness.Config{
		"raft":   map[string]any{"snapshotThreshold": 20, "snapshotInterval": "100ms"},
		"builds": map[string]any{"runningPerNode": 2},
	})
	n.Run()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	auth := &imagebuilderv1.RegistryAuth{Additional: map[string]*imagebuilderv1.BasicAuth{proxy.Addr: {Username: "alice", Password: password}}}
	request := func(i int) *imagebuilderv1.Build {
		private.Push(t, fmt.Sprint("team/app:", i), registrytest.RandomImage(t, 1, 1<<10))
		res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
			RequestId: fmt.Sprint("q", i), Requester: "alice", Auth: auth,
			Source: harness.RefSource(fmt.Sprint(proxy.Addr, "/team/app:", i)),
		})
		if err != nil {
			t.Fatal(err)
		}
		return res.Build
	}
	for i := range 20 {
		n.Wait(t, ctx, request(i).Id)
	}
	cancelled := request(20)
	release := proxy.Hold(registrytest.Blobs)
	defer release()
	for i := 21; i < 25; i++ { // two run, two wait
		request(i)
	}
	if _, err := n.Native.CancelBuild(ctx, &imagebuilderv1.CancelBuildRequest{Id: request(25).Id, Requester: "alice"}); err != nil {
		t.Fatal(err)
	}
	_ = cancelled
	testkit.Eventually(t, 30*time.Second, "there is a snapshot and two builds run", func() bool {
		snaps, _ := filepath.Glob(filepath.Join(dir, "data/raft/snapshots/*/state.bin"))
		list, err := n.Native.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{Filter: &imagebuilderv1.BuildFilter{Phases: []imagebuilderv1.Phase{imagebuilderv1.Phase_PHASE_RUNNING}}})
		return len(snaps) > 0 && err == nil && len(list.Builds) == 2
	})
	want := expectation{Registry: to.Addr}
	list, err := n.Native.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list.Builds {
		e := expectedBuild{ID: b.Id, Ref: b.Ref, Phase: b.Phase.String(), Requester: b.Requester}
		if b.Phase == imagebuilderv1.Phase_PHASE_SUCCEEDED {
			if e.Log, err = n.ReadLog(ctx, b.Id, 1); err != nil {
				t.Fatal(err)
			}
		}
		want.Builds = append(want.Builds, e)
	}
	n.Kill()
	raw, err := json.MarshalIndent(want, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join("testdata", *write)
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(base+".json", raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-C", dir, "-czf", base+".tar.gz", "data", "data.sealing-key.json").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
}

// Test_Upgrade starts this version with the data of each former version. All builds and their logs
// exist, running and queued builds continue to their end, and sealed secrets can be opened.
func Test_Upgrade(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.tar.gz")
	if err != nil || len(archives) == 0 {
		t.Fatal("no data of former versions", err)
	}
	for _, archive := range archives {
		t.Run(filepath.Base(archive), func(t *testing.T) {
			dir := t.TempDir()
			if out, err := exec.Command("tar", "-C", dir, "-xzf", archive).CombinedOutput(); err != nil {
				t.Fatal(err, string(out))
			}
			raw, err := os.ReadFile(archive[:len(archive)-len(".tar.gz")] + ".json")
			if err != nil {
				t.Fatal(err)
			}
			var want expectation
			if err := json.Unmarshal(raw, &want); err != nil {
				t.Fatal(err)
			}
			n := harness.New(t, dir, want.Registry, anyDate())
			n.Run()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			phases := map[string]int{}
			for _, e := range want.Builds {
				phases[e.Phase]++
				res, err := n.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: e.ID}})
				if err != nil {
					t.Errorf("build %s: %v", e.ID, err)
					continue
				}
				b := res.Build
				if b.Ref != e.Ref || b.Requester != e.Requester {
					t.Errorf("build %s: %v", e.ID, b)
				}
				if e.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED.String() {
					cancelBeforeDeadline(t, ctx, n, b)
					continue
				}
				if b.Phase.String() != e.Phase {
					t.Errorf("build %s is %s, was %s", e.ID, b.Phase, e.Phase)
				}
				if log, err := n.ReadLog(ctx, e.ID, 1); err != nil || log != e.Log {
					t.Errorf("build %s: log %q, %v, was %q", e.ID, log, err, e.Log)
				}
			}
			// Their registry is gone, so that they end by their deadline, their
			// budget or their cancellation; the test asserts only that they end.
			for _, e := range want.Builds {
				b := n.Wait(t, ctx, e.ID)
				if b.GetEndedAt() == nil {
					t.Errorf("build %s never ended", e.ID)
					continue
				}
				if e.Phase == imagebuilderv1.Phase_PHASE_RUNNING.String() && b.GetAttempts()[0].GetBlame() != imagebuilderv1.Blame_BLAME_INFRASTRUCTURE {
					t.Errorf("build %s: attempt 1 of the killed process is %v", e.ID, b.GetAttempts()[0])
				}
			}
			if phases["PHASE_SUCCEEDED"] < 20 || phases["PHASE_RUNNING"] != 2 || phases["PHASE_QUEUED"] < 2 {
				t.Errorf("the data holds %v", phases)
			}
			n.Stop()
			grow(t, ctx, dir, want)
		})
	}
}

// cancelBeforeDeadline cancels a build of data that is so new, or read by a clock
// so far back, that the deadline of the build is still to come.
func cancelBeforeDeadline(t *testing.T, ctx context.Context, n *harness.Node, b *imagebuilderv1.Build) {
	t.Helper()
	if b.EndedAt != nil || time.Until(b.Deadline.AsTime()) < time.Minute {
		return
	}
	if _, err := n.Native.CancelBuild(ctx, &imagebuilderv1.CancelBuildRequest{Id: b.Id, Requester: b.Requester}); err != nil {
		t.Errorf("cancel build %s: %v", b.Id, err)
	}
}

// anyDate is the configuration by which a node keeps the data of a former
// version on any date: the builds of that data ended at a fixed date, and by
// default a build is removed a week after its end.
func anyDate() harness.Config {
	const century = 100 * 365 * 24 * time.Hour
	return harness.Config{
		"clock":   map[string]any{"acceptJump": true},
		"history": map[string]any{"maxAge": century.String()},
	}
}

// grow makes a cluster of three out of the node: the others have all that it
// has, and take builds.
func grow(t *testing.T, ctx context.Context, dir string, want expectation) {
	t.Helper()
	var peers []string
	for range 3 {
		peers = append(peers, testkit.FreeAddr(t))
	}
	certs := t.TempDir()
	var nodes []*harness.Node
	for i, name := range []string{"n1", "n2", "n3"} {
		files, err := pki.IssueCert(certs, pki.CertIdentity{Cluster: cluster.DefaultCluster, Role: pki.RoleNode, Name: name}, false)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			dir = t.TempDir()
		}
		n := harness.New(t, dir, want.Registry, anyDate())
		n.Override(harness.Config{
			"name": name, "peerAddress": peers[i],
			"sealing": map[string]any{"keyFile": filepath.Join(filepath.Dir(keyOf(nodes, dir)), "data.sealing-key.json")},
			"cluster": map[string]any{
				"address": peers[i], "peers": peers, "expect": 0,
				"tls": map[string]any{"ca": files.CA, "crt": files.Cert, "key": files.Key},
			},
		})
		n.Run()
		nodes = append(nodes, n)
	}
	testkit.Eventually(t, time.Minute, "three nodes vote, and the feature level is raised", func() bool {
		res, err := nodes[0].Members(ctx, false)
		return err == nil && res.FailureTolerance == 1 && res.FeatureLevel >= 2
	})
	for _, e := range want.Builds {
		res, err := nodes[2].Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: e.ID}})
		if err != nil || res.Build.Ref != e.Ref {
			t.Errorf("build %s on the third node: %v", e.ID, err)
			continue
		}
		if e.Phase == imagebuilderv1.Phase_PHASE_SUCCEEDED.String() {
			if log, err := nodes[1].ReadLog(ctx, e.ID, 1); err != nil || log != e.Log {
				t.Errorf("build %s: log through the second node %q, %v, was %q", e.ID, log, err, e.Log)
			}
		}
	}
}

// keyOf returns the path of the data of the first node; dir belongs to it if nodes is empty.
func keyOf(nodes []*harness.Node, dir string) string {
	if len(nodes) > 0 {
		dir = nodes[0].Dir
	}
	return filepath.Join(dir, "data")
}
