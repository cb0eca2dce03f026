package operator

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/cluster/gossip"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
	"github.com/image-builder-ha/image-builder/verify"
)

// Test_Operator_MethodsAreRefusedOnThePublicPort calls every method of the cluster API without the
// certificate of an operator.
func Test_Operator_MethodsAreRefusedOnThePublicPort(t *testing.T) {
	c, _ := harness.StartClusterWithImages(t, 3, 1, nil)
	d := imagebuilderv1.Cluster_ServiceDesc
	var methods []string
	for _, m := range d.Methods {
		methods = append(methods, m.MethodName)
	}
	for _, m := range d.Streams {
		methods = append(methods, m.StreamName)
	}
	if len(methods) < 7 {
		t.Fatalf("only %v", methods)
	}
	for _, n := range c.Nodes {
		for _, m := range methods {
			s, err := n.Conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+d.ServiceName+"/"+m)
			if err == nil {
				_ = s.SendMsg(&emptypb.Empty{})
				_ = s.CloseSend()
				err = s.RecvMsg(&emptypb.Empty{})
			}
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s on the public port of %s: %v", m, n.Name, err)
			}
		}
	}
}

// Test_Operator_Commands runs the commands of operators against three nodes.
func Test_Operator_Commands(t *testing.T) {
	c, refs := harness.StartClusterWithImages(t, 3, 3, nil)
	n := c.Nodes[0]
	harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 && r.FeatureLevel >= 2 })
	run := func(want int, args ...string) string {
		t.Helper()
		out, errOut, status := harness.CLI(t, n.Socket(), args...)
		if status != want {
			t.Fatalf("%v: status %d, want %d: %s %s", args, status, want, out, errOut)
		}
		return out + errOut
	}
	has := func(out string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(out, p) {
				t.Errorf("%q is missing in:\n%s", p, out)
			}
		}
	}
	id := harness.CreateBuild(t, n, refs[0])
	if b := n.Wait(t, testkit.Context(t, time.Minute), id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		t.Fatal(b)
	}
	has(run(0, "cluster", "members"), "n0", "n1", "n2", "leader", "voter", "alive")
	has(run(0, "cluster", "members", "--stale"), "n0", "n1", "n2")
	has(run(0, "cluster", "status"), "can lose", "1 more voter")
	lead := c.Leader()
	to := c.Others(lead)[0]
	has(run(0, "cluster", "transfer-leadership", to.Name), to.Name+" leads")
	has(run(0, "cluster", "drain", "n2"), "drained")
	has(run(0, "cluster", "members"), "drained")
	has(run(0, "cluster", "undrain", "n2"), "undrained")
	run(2, "cluster", "drain", "nobody")
	run(2, "cluster", "remove", "nobody")
	has(run(0, "cluster", "reseal"), "sealed by key")
	file := filepath.Join(t.TempDir(), "backup.ib")
	has(run(0, "snapshot", "save", file), "saved")
	if s, err := os.Stat(file); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", s.Mode(), err)
	}
	run(2, "snapshot", "save", file) // the file exists
	has(run(0, "snapshot", "inspect", file), "builds", "1 (0 queued")
	harness.CreateBuild(t, n, refs[1])
	has(run(0, "snapshot", "restore", file), "restored 1 builds")
	for _, n := range c.Nodes {
		testkit.Eventually(t, 20*time.Second, n.Name+" has the restored state", func() bool {
			res, err := n.Native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{Linearizable: true})
			return err == nil && len(res.Builds) == 1
		})
	}
	// Without a majority, the node still reports its own state.
	c.Nodes[1].Kill()
	c.Nodes[2].Kill()
	testkit.Eventually(t, 20*time.Second, "the node knows that it has no leader", func() bool {
		res, err := n.Members(t.Context(), true)
		return err == nil && !res.Available
	})
	has(run(0, "cluster", "members", "--stale"), "n0", "n1", "n2")
	has(run(3, "cluster", "status"), "no leader")
	// After the loss of the majority, the node becomes the only voter, and new nodes join it.
	n.Kill()
	conf := filepath.Join(n.Dir, "config.json")
	run(2, "cluster", "recover", "--config", conf)
	has(run(0, "cluster", "recover", "--config", conf, "--yes"), "only voter")
	n.Run()
	for _, o := range c.Nodes[1:] {
		if err := os.RemoveAll(filepath.Join(o.Dir, "data")); err != nil {
			t.Fatal(err)
		}
		o.Run()
	}
	harness.AwaitMembers(t, c, "three nodes vote", func(r *imagebuilderv1.MembersResponse) bool { return harness.Voters(r) == 3 && len(r.Members) == 3 })
	harness.AwaitSameBuilds(t, c)
	if b := n.Wait(t, testkit.Context(t, time.Minute), harness.CreateBuild(t, c.Nodes[2], refs[2])); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		t.Error(b)
	}
}

// Test_Operator_RestoreIntoANewCluster restores a snapshot that has a build with secrets, which the
// new cluster cannot open, and a build without secrets.
func Test_Operator_RestoreIntoANewCluster(t *testing.T) {
	from, refs := harness.StartClusterWithImages(t, 3, 2, harness.Config{"builds": map[string]any{"runningTotal": 1}})
	file := filepath.Join(t.TempDir(), "backup.ib")
	n := from.Nodes[0]
	// Nothing starts on drained nodes: both builds stay queued.
	harness.AwaitMembers(t, from, "the feature level is raised", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 2 })
	for _, x := range from.Nodes {
		if _, status, code := harness.CLI(t, n.Socket(), "cluster", "drain", x.Name); code != 0 {
			t.Fatal(status)
		}
	}
	secret, err := n.Native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{
		RequestId: "1", Source: harness.RefSource(refs[0]), Force: true, Requester: "r",
		Auth: &imagebuilderv1.RegistryAuth{Additional: map[string]*imagebuilderv1.BasicAuth{"private.example.com": {Username: "u", Password: "very-secret"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	open := harness.CreateBuild(t, n, refs[1])
	if out, errOut, code := harness.CLI(t, n.Socket(), "snapshot", "save", file); code != 0 {
		t.Fatal(out, errOut)
	}
	raw, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(raw), "very-secret") {
		t.Errorf("the snapshot shows a secret (%v)", err)
	}
	to, _ := harness.StartClusterWithImages(t, 3, 1, harness.Config{})
	if out, errOut, code := harness.CLI(t, to.Nodes[0].Socket(), "snapshot", "restore", file); code != 0 || !strings.Contains(out, "1 active builds failed") {
		t.Fatal(out, errOut)
	}
	ctx := testkit.Context(t, time.Minute)
	if b := to.Nodes[1].Wait(t, ctx, secret.Build.Id); !strings.Contains(b.GetMessage(), "key") || b.GetPhase() == imagebuilderv1.Phase_PHASE_SUCCEEDED {
		t.Errorf("the build whose secrets cannot be opened: %s %q", b.GetPhase(), b.GetMessage())
	}
	testkit.Eventually(t, 20*time.Second, "the other build is there", func() bool {
		_, err := to.Nodes[2].Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: open}})
		return err == nil
	})
}

// Test_Operator_RestoreOfWhatRan saves a snapshot while a build runs, and restores it into the same
// processes after the build has ended. The build ends again, with its logs.
func Test_Operator_RestoreOfWhatRan(t *testing.T) {
	from, to := registrytest.Start(t, registrytest.Options{}), registrytest.Start(t, registrytest.Options{})
	from.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<20))
	proxy := registrytest.NewProxy(t, from)
	release := proxy.Hold(registrytest.Blobs)
	c := harness.StartCluster(t, 3, to.Addr, nil)
	harness.AwaitMembers(t, c, "the feature level is raised", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel == builds.FeatureLevel })
	ctx, n := testkit.Context(t, time.Minute), c.Nodes[0]
	id := harness.CreateBuild(t, n, proxy.Addr+"/team/app:1")
	build := func() *imagebuilderv1.Build {
		res, err := n.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
		if err != nil {
			return nil
		}
		return res.Build
	}
	testkit.Eventually(t, 20*time.Second, "the build runs", func() bool { return build().GetPhase() == builds.Running })
	file := filepath.Join(t.TempDir(), "backup.ib")
	if out, errOut, code := harness.CLI(t, n.Socket(), "snapshot", "save", file); code != 0 {
		t.Fatal(out, errOut)
	}
	release()
	if b := n.Wait(t, ctx, id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED || len(b.Attempts) != 1 {
		t.Fatal(b)
	}
	if out, errOut, code := harness.CLI(t, n.Socket(), "snapshot", "restore", file); code != 0 {
		t.Fatal(out, errOut)
	}
	if b := n.Wait(t, ctx, id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED || len(b.Attempts) != 2 || b.Attempts[0].Counted {
		t.Errorf("after the restore: %v", b)
	}
	testkit.Eventually(t, 20*time.Second, "the logs of both attempts are sealed", func() bool {
		b := build()
		return len(b.GetAttempts()) == 2 && b.Attempts[0].Log.State == builds.LogSealed && b.Attempts[1].Log.State == builds.LogSealed
	})
}

// Test_Operator_GossipKeysRotate changes the gossip keys of running nodes. A key file that others
// can read is refused.
func Test_Operator_GossipKeysRotate(t *testing.T) {
	dir := t.TempDir()
	old, next := filepath.Join(dir, "old"), filepath.Join(dir, "next")
	for _, f := range []string{old, next} {
		if err := gossip.NewKeyFile(f); err != nil {
			t.Fatal(err)
		}
	}
	read := func(f string) string {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	a, b := read(old), read(next)
	shared := filepath.Join(dir, "gossip.key")
	write := func(s string) {
		if err := os.WriteFile(shared, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(a)
	c, refs := harness.StartClusterWithImages(t, 3, 2, harness.Config{"cluster": map[string]any{"gossip": map[string]any{"keyFile": shared, "address": "127.0.0.1:0"}}})
	key := func() (keys []string) {
		res, err := c.Nodes[0].Members(t.Context(), false)
		if err != nil {
			return nil
		}
		for _, m := range res.Members {
			keys = append(keys, m.GossipKey)
		}
		return keys
	}
	same := func(not string) func() bool {
		return func() bool {
			k := key()
			return len(k) == 3 && k[0] != "" && k[0] == k[1] && k[1] == k[2] && k[0] != not
		}
	}
	testkit.Eventually(t, 20*time.Second, "all nodes use the first key", same(""))
	first := key()[0]
	write(a + b)
	write(b + a)
	testkit.Eventually(t, 20*time.Second, "all nodes use the next key", same(first))
	write(b)
	if b := c.Nodes[1].Wait(t, testkit.Context(t, time.Minute), harness.CreateBuild(t, c.Nodes[1], refs[0])); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		t.Error(b)
	}
	if err := os.Chmod(next, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := gossip.LoadKeys(next); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("a key file that others can read: %v", err)
	}
}

// Test_Operator_SealingKeysRotateUnderLoad follows the runbook: the new key is added to all nodes,
// moved to the first place, all secrets are resealed, and the old key is removed. Builds with
// secrets continue all the time.
func Test_Operator_SealingKeysRotateUnderLoad(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	c := harness.StartCluster(t, 3, reg.Addr, harness.Config{"log": map[string]any{"level": "info"}})
	harness.AwaitMembers(t, c, "the feature level is raised", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 2 })
	shared := filepath.Join(c.Dir, "sealing.json")
	next := filepath.Join(t.TempDir(), "next.json")
	if err := secrets.NewKeyFile(next); err != nil {
		t.Fatal(err)
	}
	read := func(path string) (keys []map[string]string) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(raw, &keys); err != nil {
			t.Fatal(err)
		}
		return keys
	}
	old, fresh := read(shared)[0], read(next)[0]
	write := func(keys ...map[string]string) {
		raw, err := json.Marshal(keys)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(shared+".new", raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(shared+".new", shared); err != nil {
			t.Fatal(err)
		}
	}
	all := func(want ...string) func() bool {
		return func() bool {
			res, err := c.Nodes[0].Members(t.Context(), false)
			if err != nil {
				return false
			}
			for _, m := range res.Members {
				if strings.Join(m.SealingKeys, " ") != strings.Join(want, " ") {
					return false
				}
			}
			return true
		}
	}
	o := verifyOptions(t, c, reg, 20*time.Second)
	o.Rate = 8
	done := make(chan *verify.Evidence, 1)
	go func() {
		e, err := verify.Run(t.Context(), o)
		if err != nil {
			t.Error(err)
		}
		done <- e
	}()
	write(old, fresh)
	testkit.Eventually(t, 30*time.Second, "all nodes hold both keys", all(old["id"], fresh["id"]))
	write(fresh, old)
	testkit.Eventually(t, 30*time.Second, "all nodes seal with the new key", all(fresh["id"], old["id"]))
	if out, errOut, code := harness.CLI(t, c.Nodes[1].Socket(), "cluster", "reseal"); code != 0 || !strings.Contains(out+errOut, fresh["id"]) {
		t.Errorf("reseal: %d %s %s", code, out, errOut)
	}
	write(fresh)
	testkit.Eventually(t, 30*time.Second, "all nodes hold the new key only", all(fresh["id"]))
	e := <-done
	if r := reportOf(t, e); !r.OK || r.Counts.Acknowledged < 80 || r.Writes.Failed > 0 {
		t.Errorf("while the keys changed:\n%s", textOf(t, r))
	}
}
