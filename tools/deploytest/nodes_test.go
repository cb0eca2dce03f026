package deploytest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// binaryDir is the folder of the binary, or "" if no test needed it.
var binaryDir string

var binary = sync.OnceValues(func() (path string, err error) {
	if binaryDir, err = os.MkdirTemp("", "deploytest"); err != nil {
		return "", err
	}
	path = filepath.Join(binaryDir, "image-builder")
	return path, harness.CopyBinary(harness.Variant{}, path)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binaryDir != "" {
		_ = os.RemoveAll(binaryDir)
	}
	harness.RemoveBinary()
	os.Exit(code)
}

func mustBinary(t *testing.T) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

// writeSecret writes the values of a secret as files, as in a volume.
func writeSecret(t *testing.T, o Object, dir string) {
	t.Helper()
	for k, v := range o["data"].(map[string]any) {
		raw, err := base64.StdEncoding.DecodeString(fmt.Sprint(v))
		if err != nil {
			t.Fatalf("%s %s: %v", o.Name(), k, err)
		}
		writeFile(t, filepath.Join(dir, k), string(raw))
	}
}

// script returns a command that runs a script of the chart. folders maps folders of a pod to their
// replacements.
func script(t *testing.T, text string, folders map[string]string) *exec.Cmd {
	t.Helper()
	for from, to := range folders {
		text = strings.ReplaceAll(text, from, to)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-euc", text, "sh")
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(mustBinary(t))+":"+os.Getenv("PATH"))
	return cmd
}

// issue runs the script of the certificate job and returns its secrets. path is the path of the
// list of containers in the job.
func issue(t *testing.T, job Object, dir string, path ...string) []Object {
	t.Helper()
	containers := job.At(path...).([]any)
	text := Object(containers[0].(map[string]any))["command"].([]any)[2].(string)
	work := filepath.Join(t.TempDir(), "w")
	if err := os.MkdirAll(work, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := script(t, text, map[string]string{"/work": work, "/have-": dir + "/have-"}).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	raw, err := os.ReadFile(filepath.Join(work, "secrets.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := Objects(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range secrets {
		if err := CheckBuiltin(s); err != nil {
			t.Errorf("%s: %v", s.Name(), err)
		}
	}
	return secrets
}

func Test_CertificatesJob_KeepsAndRenews(t *testing.T) {
	objects := render(t, "defaults")
	dir := t.TempDir()
	job, cron := find(objects, "Job", "image-builder-certs-hook"), find(objects, "CronJob", "image-builder-certs")
	first := issue(t, job, dir, "spec", "template", "spec", "initContainers")
	if len(first) != 3 {
		t.Fatalf("got %d secrets", len(first))
	}
	for _, s := range first {
		writeSecret(t, s, dir+"/have-"+strings.TrimPrefix(s.Name(), "image-builder-"))
	}
	peer := func(secrets []Object) map[string]any {
		return find(secrets, "Secret", "image-builder-peer")["data"].(map[string]any)
	}
	if n := len(peer(first)); n != 19 || peer(first)["ca-key.pem"] != nil {
		t.Errorf("the secret of the nodes has %d keys, expected a CA without its key and nine pairs", n)
	}
	again := issue(t, job, dir, "spec", "template", "spec", "initContainers")
	if !maps.Equal(peer(first), peer(again)) {
		t.Error("an upgrade replaced certificates")
	}
	renewed := peer(issue(t, cron, dir, "spec", "jobTemplate", "spec", "template", "spec", "initContainers"))
	if renewed["ca.pem"] != peer(first)["ca.pem"] || renewed["node-image-builder-0.pem"] == peer(first)["node-image-builder-0.pem"] {
		t.Error("renewal should keep the CA and replace the certificates")
	}
}

// Test_Chart_RealNodes starts three nodes on loopback with the configuration, scripts and secrets
// of the chart.
func Test_Chart_RealNodes(t *testing.T) {
	objects := render(t, "defaults")
	dir := t.TempDir()
	for _, s := range issue(t, find(objects, "Job", "image-builder-certs-hook"), dir, "spec", "template", "spec", "initContainers") {
		if strings.HasSuffix(s.Name(), "-peer") {
			writeSecret(t, s, dir+"/peer")
		}
	}
	writeSecret(t, find(objects, "Secret", "image-builder-sealing"), dir+"/secrets/sealing")
	writeSecret(t, find(objects, "Secret", "image-builder-gossip"), dir+"/secrets/gossip")
	files := fmt.Sprint(find(objects, "ConfigMap", "image-builder-scripts").At("data", "files.sh"))
	config := fmt.Sprint(find(objects, "ConfigMap", "image-builder").At("data", "config.json"))

	var peers, health []string
	for range 3 {
		peers, health = append(peers, testkit.FreeAddr(t)), append(health, testkit.FreeAddr(t))
	}
	for i := range 3 {
		run := fmt.Sprintf("%s/run-%d", dir, i)
		folders := map[string]string{"/secrets": dir + "/secrets", "/peer": dir + "/peer", "/run/image-builder": run}
		if err := os.MkdirAll(run, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := script(t, files, folders)
		cmd.Args = append(cmd.Args, "once")
		cmd.Env = append(cmd.Env, fmt.Sprintf("POD_NAME=image-builder-%d", i), fmt.Sprintf("PEER_HOST=image-builder-%d.nodes.test", i), "ZONE=zone-a")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if s, err := os.Stat(run + "/sealing.json"); err != nil || s.Mode().Perm() != 0o600 {
			t.Fatalf("sealing.json: %v %v", s.Mode(), err)
		}
		writeFile(t, run+"/config.json", strings.ReplaceAll(config, "/run/image-builder", run))
		over, _ := json.Marshal(map[string]any{
			"dataDir": fmt.Sprintf("%s/data-%d", dir, i), "operatorSocket": fmt.Sprintf("%s/%d.sock", dir, i), "peerAddress": peers[i],
			"metricsAddress": "", "healthAddress": health[i], "pprofAddress": "",
			"server":  map[string]any{"services": map[string]any{"grpc": map[string]any{"address": "127.0.0.1:0"}}},
			"cluster": map[string]any{"address": peers[i], "dns": "", "peers": peers, "gossip": map[string]any{"address": testkit.FreeAddr(t)}},
		})
		writeFile(t, run+"/over.json", string(over))
		node := exec.Command(mustBinary(t), "run", "--config", run+"/config.json", "--config", run+"/node.json", "--config", run+"/over.json")
		log, err := os.Create(run + "/log")
		if err != nil {
			t.Fatal(err)
		}
		node.Stdout, node.Stderr = log, log
		if err := node.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = node.Process.Signal(syscall.SIGTERM)
			_ = node.Wait()
			log.Close()
			if raw, _ := os.ReadFile(run + "/log"); t.Failed() {
				t.Logf("log of node %d:\n%s", i, raw)
			}
		})
	}
	for _, h := range health {
		testkit.Eventually(t, 60*time.Second, h+" is ready", func() bool {
			res, err := http.Get("http://" + h + "/ready")
			if err != nil {
				return false
			}
			defer res.Body.Close()
			return res.StatusCode == http.StatusOK
		})
	}
	out, err := exec.Command(mustBinary(t), "cluster", "members", "-o", "json", "--server", "unix://"+dir+"/0.sock").CombinedOutput()
	if err != nil || strings.Count(string(out), `"image-builder-`) < 3 || !strings.Contains(string(out), "zone-a") {
		t.Errorf("members: %v\n%s", err, out)
	}
}

// Test_Files_FollowChanges: the sidecar copies a changed secret, and ends after SIGTERM.
func Test_Files_FollowChanges(t *testing.T) {
	files := fmt.Sprint(find(render(t, "defaults"), "ConfigMap", "image-builder-scripts").At("data", "files.sh"))
	dir := t.TempDir()
	for _, f := range []string{"secrets/sealing/sealing.json", "peer/tls.crt", "peer/tls.key", "peer/ca.crt"} {
		writeFile(t, filepath.Join(dir, f), "1")
	}
	if err := os.Mkdir(dir+"/run", 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := script(t, strings.ReplaceAll(files, "sleep 10", "sleep 0.2"), map[string]string{"/secrets": dir + "/secrets", "/peer": dir + "/peer", "/run/image-builder": dir + "/run"})
	cmd.Args = append(cmd.Args, "watch")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	has := func(name, text string) func() bool {
		return func() bool { raw, _ := os.ReadFile(dir + "/run/" + name); return string(raw) == text }
	}
	testkit.Eventually(t, 10*time.Second, "the first copy is there", has("node.pem", "1"))
	writeFile(t, dir+"/peer/tls.crt", "2")
	testkit.Eventually(t, 10*time.Second, "the changed copy is there", has("node.pem", "2"))
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// acceptConfig fails the test if the service refuses the configuration. An accepted configuration
// ends with exit code 3, because files that it names do not exist.
func acceptConfig(t *testing.T, files ...string) {
	t.Helper()
	args := []string{"run", "--data-dir", t.TempDir(), "--grpc-address", "127.0.0.1:0"}
	for _, f := range files {
		args = append(args, "--config", f)
	}
	out, err := exec.CommandContext(t.Context(), mustBinary(t), args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("%v: %s", err, out)
	}
}

func Test_Chart_ConfigsAreValid(t *testing.T) {
	each(t, func(t *testing.T, objects []Object) {
		for _, o := range objects {
			config, ok := o.At("data", "config.json").(string)
			if o.Kind() != "ConfigMap" || !ok {
				continue
			}
			dir := t.TempDir()
			writeFile(t, dir+"/config.json", config)
			writeFile(t, dir+"/first.json", `{"name": "a", "peerAddress": "a.b:7800", "orchestrator": {"baseImageRepository": "r.example/a", "workspaceImageRepository": "r.example/b"}}`)
			acceptConfig(t, dir+"/first.json", dir+"/config.json")
		}
	})
}

func Test_Compose(t *testing.T) {
	path := Root + "/compose/compose.yaml"
	project, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: filepath.Dir(path), ConfigFiles: []types.ConfigFile{{Filename: path}}, Environment: types.Mapping{},
	}, func(o *loader.Options) { o.SetProjectName("image-builder", true) })
	if err != nil {
		t.Fatal(err)
	}
	nodes := 0
	for name, s := range project.Services {
		if !strings.HasPrefix(name, "ib-") {
			continue
		}
		nodes++
		if !s.ReadOnly || s.StopGracePeriod == nil || s.HealthCheck == nil {
			t.Errorf("%s: root is writable, or no stop_grace_period or healthcheck", name)
		}
		var files []string
		for _, c := range s.Configs {
			f := filepath.Join(t.TempDir(), filepath.Base(c.Target))
			writeFile(t, f, project.Configs[c.Source].Content)
			files = append(files, f)
		}
		acceptConfig(t, files...)
	}
	if nodes != 3 {
		t.Errorf("got %d nodes", nodes)
	}
}

// Test_PlainManifests_AreCurrent: the files of deploy/kubernetes are the rendered chart. `go
// generate` in this folder writes them.
func Test_PlainManifests_AreCurrent(t *testing.T) {
	for file := range PlainFiles {
		want, err := PlainManifests(Root, file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(Root + "/kubernetes/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("deploy/kubernetes/%s differs from what the chart renders: run go generate in tools/deploytest", file)
		}
		objects, err := Objects(want)
		if err != nil {
			t.Fatal(err)
		}
		checkAll(t, objects)
	}
}
