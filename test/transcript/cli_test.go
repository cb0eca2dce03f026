package transcript

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"sigs.k8s.io/yaml"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// run runs the command line and returns its streams and status.
func (w *world) run(args ...string) (stdout, stderr string, status int) {
	w.t.Helper()
	binary := *program
	if binary == "" {
		binary = harness.Binary(w.t)
	}
	cmd := exec.CommandContext(w.ctx, binary, args...)
	cmd.Env = append(append(os.Environ(), w.env()...), "IMAGE_BUILDER_SERVER="+w.n.GRPC, "TERM=dumb")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		w.t.Error(err)
		return "", "", -1
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// cli runs a command and records status and output.
func (w *world) cli(kind body, args ...string) {
	w.t.Helper()
	out, errOut, status := w.run(args...)
	w.record(kind, args, out, errOut, status)
}

// cliAll is cli for commands that change nothing. They run at the same time.
func (w *world) cliAll(kind body, commands [][]string) {
	w.t.Helper()
	type result struct {
		out, errOut string
		status      int
	}
	results := make([]result, len(commands))
	var g errgroup.Group
	g.SetLimit(4)
	for i, args := range commands {
		g.Go(func() error {
			x := &results[i]
			x.out, x.errOut, x.status = w.run(args...)
			return nil
		})
	}
	_ = g.Wait()
	for i, args := range commands {
		w.record(kind, args, results[i].out, results[i].errOut, results[i].status)
	}
}

func (w *world) record(kind body, args []string, out, errOut string, status int) {
	w.t.Helper()
	w.r.begin("image-builder %s", w.r.replace(strings.Join(args, " ")))
	w.r.line("status %d", status)
	switch kind {
	case values:
		for dec := json.NewDecoder(strings.NewReader(out)); ; {
			var v json.RawMessage
			if err := dec.Decode(&v); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				w.r.line("not JSON: %q", w.r.replace(out))
				break
			}
			w.r.json(v)
		}
	case text:
		if out != "" {
			w.r.text("stdout", w.r.table(out))
		}
	}
	if errOut != "" {
		w.r.text("stderr", errOut)
	}
}

func (w *world) playCLI() {
	r := w.r
	r.section("CLI: commands", false)
	server := "--server=unix://" + filepath.Join(w.n.Dir, "op.sock")
	w.cli(none, "cache", "add", upstream+"/team/app:3", "-o", "json", "--interval", "1h", server) // it may be resolved by now
	w.cli(values, "build", "--ref", upstream+"/team/cli-detached:1", "-o", "json", "--detach", "--build-label", "team=a", "--timeout", "5m", "--requester", "bob")
	w.settle()
	w.settleCache()
	for _, args := range [][]string{
		{"list", "-o", "json", "--limit", "2"},
		{"list", "-o", "json", "--phase", "failed", "--requester", "user-1", "--limit", "1"},
		{"status", w.logs, "-o", "json"},
		{"resolve", upstream + "/team/app:1", "-o", "json"},
		{"resolve", upstream + "/team/app:1", "-o", "json", "--workspace"},
		{"cancel", w.logs, "-o", "json", "--requester", "user-1"},
		{"build", "--ref", upstream + "/team/app:1", "-o", "json"},
		{"cache", "list", "-o", "json"},
		{"cache", "add", upstream + "/team/app:3", "-o", "json", "--interval", "1h"},
		{"cache", "set-interval", "3h", upstream + "/team/app:3", "-o", "json", server},
		{"cache", "remove", upstream + "/team/app:3", "-o", "json", server},
		{"cache", "refresh", "-o", "json", server},
		{"cluster", "members", "-o", "json", server},
		{"cluster", "members", "-o", "json", "--stale", server},
		{"cluster", "status", "-o", "json", server},
		{"cluster", "drain", "n1", "-o", "json", server},
		{"cluster", "undrain", "n1", "-o", "json", server},
		{"cluster", "reseal", "-o", "json", server},
	} {
		w.cli(values, args...)
	}
	out, _, _ := w.run("status", w.logs, "-o", "yaml")
	raw, err := yaml.YAMLToJSON([]byte(out))
	if err != nil {
		w.t.Fatal(err)
	}
	r.begin("image-builder status -o yaml")
	r.json(raw)
	for _, args := range [][]string{
		{"logs", w.logs},
		{"logs", w.logs, "--attempt", "1", "--offset", "5"},
		{"status", w.logs},
		{"cancel", w.logs},
		{"resolve", upstream + "/team/app:1"},
		{"resolve", upstream + "/team/app:1", "--workspace"},
		{"build", "--ref", upstream + "/team/app:1"},
		{"cluster", "status", server},
		{"cluster", "members", server},
	} {
		w.cli(text, args...)
	}
	w.progress()

	dir := w.t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, content string) string {
		if err := os.WriteFile(path(name), []byte(content), 0o600); err != nil {
			w.t.Fatal(err)
		}
		return path(name)
	}
	node := filepath.Join(w.n.Dir, "config.json")
	r.section("CLI: statuses", false)
	w.cliAll(text, [][]string{
		{"nope"},
		{"build"},
		{"build", "--nope"},
		{"build", "a", "b"},
		{"build", "--ref", "a", "b"},
		{"build", "--progress", "x", "."},
		{"build", "--ref", upstream + "/none:1"},
		{"build", "--ref", "docker.io/Upper/x"},
		{"build", path("none")},
		{"build", "--ref", "a", "--build-label", "x"},
		{"build", "--secret", "x", "."},
		{"build", "--secret", "id=x", "."},
		{"build", "-f", "-", "https://git.example.com/a.git"},
		{"build", "http://git.example.com/a.git#none"},
		{"build", "https://git.example.com/a.git#:../x"},
		{"build", "--registry-auth", path("none"), "--ref", "a"},
		{"list", "-o", "xml"},
		{"list", "--phase", "nope"},
		{"list", "--label", "x"},
		{"list", "--server", "127.0.0.1:1"},
		{"list", "--server", ","},
		{"list", "--cert", "x"},
		{"list", "--ca", path("none")},
		{"status"},
		{"status", "none"},
		{"logs", "none"},
		{"cancel", "none"},
		{"cancel", w.logs, "--operator"},
		{"resolve", "a b"},
		{"resolve", upstream + "/none:1"},
		{"cache", "remove", upstream + "/team/app:3"},
		{"cache", "set-interval", "x", server},
		{"cache", "nope"},
		{"cluster", "members"},
		{"cluster", "drain", "nobody", server},
		{"cluster", "remove", "nobody", server},
		{"cluster", "transfer-leadership", server},
		{"cluster", "certs"},
		{"cluster", "keys", node},
		{"cluster", "recover", "--config", node},
		{"cluster", "recover", "--yes", "--config", path("none")},
		{"snapshot", "inspect", node},
		{"snapshot", "restore", path("none"), server},
		{"snapshot", "save", node, server},
		{"run", "--config", path("none")},
		{"run", "--config", node},
		{"config", "--check", path("none")},
		{"config", "--check", node},
		{"config", "--check", write("key.json", `{"orchestrator": {"baseImageRepo": "x"}}`)},
		{"config", "--check", write("value.json", `{"builds": {"timeout": "10 minutes"}}`)},
		{"config", "--check", write("bad.yaml", "builds: {attempts: -1, timeout: 10h}\nlog: {level: loud, format: xml}\nraft: {lease: 1h}\ncluster: {address: ':1', voters: 2}\nhttp: {publicURL: x}\n")},
		{"verify", "-o", "xml"},
		{"verify", "--check", path("none")},
		{"worker"},
		{"worker", "--job", path("none")},
		{"registry-proxy", "--config", path("none")},
		{"dev", "--nodes", "2"},
		{"doctor", "registry", "--config", node, w.reg.Addr},
		{"doctor", "registry", "--config", node, "127.0.0.1:1"},
		{"resolve", upstream + "/none:1", "--explain", "--config", node},
	})
	w.cli(text, "cluster", "certs", "--dir", path("certs"), "--node", "n1", "--operator", "alice")
	w.cli(text, "cluster", "keys", path("new.json"))
	w.cli(text, "cluster", "gossip-key", path("gossip.key"))
	w.sbom()
	w.config()
	w.help()
}

// progress records the last two values that `build --progress json -o json` prints: the last change
// and the build. Phases that pass quickly may not show before.
func (w *world) progress() {
	out, _, status := w.run("build", "--ref", upstream+"/team/cli:1", "--progress", "json", "-o", "json")
	w.r.begin("image-builder build --progress json -o json: the last change and the build")
	w.r.line("status %d", status)
	var all []json.RawMessage
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var v json.RawMessage
		if dec.Decode(&v) != nil {
			break
		}
		all = append(all, v)
	}
	if len(all) < 2 {
		w.t.Fatalf("not two values: %s", out)
	}
	for _, v := range all[len(all)-2:] {
		w.r.json(unsealed(w, v))
	}
}

// unsealed removes the state of the log from a build that has just ended: it is sealed soon after.
func unsealed(w *world, raw []byte) []byte {
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		w.t.Fatal(err)
	}
	for _, a := range v["attempts"].([]any) {
		delete(a.(map[string]any), "log")
	}
	out, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// sbom records the keys of the bill of materials; its values are those of the modules.
func (w *world) sbom() {
	out, _, status := w.run("sbom")
	w.r.begin("image-builder sbom: keys")
	w.r.line("status %d", status)
	w.r.keys([]byte(out))
}

// keys records the paths of all keys of a JSON value.
func (r *transcript) keys(raw []byte) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		r.t.Fatal(err)
	}
	all := map[string]bool{}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, x := range v {
				all[path+"."+k] = true
				walk(path+"."+k, x)
			}
		case []any:
			for _, x := range v {
				walk(path+"[]", x)
			}
		}
	}
	walk("", v)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		r.line("%s", k)
	}
}

// config records keys and defaults of the configuration for machines, and their meaning for people.
func (w *world) config() {
	r := w.r
	r.section("CLI: configuration", false)
	out, _, status := w.run("config")
	r.begin("image-builder config")
	r.line("status %d", status)
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if doc, ok := strings.CutPrefix(strings.TrimSpace(line), "# "); ok {
			r.text("doc", doc)
		} else {
			r.line("%s", line)
		}
	}
	out, _, status = w.run("config", "--schema")
	var v any
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		w.t.Fatal(err)
	}
	var strip func(v any)
	strip = func(v any) {
		if m, ok := v.(map[string]any); ok {
			if _, ok := m["description"].(string); ok {
				m["description"] = "text"
			}
			for _, x := range m {
				strip(x)
			}
		}
	}
	strip(v)
	raw, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	r.begin("image-builder config --schema")
	r.line("status %d", status)
	r.json(raw)
}

var subcommand = regexp.MustCompile(`(?m)^  ([a-z-]+) +\S`)

// help records names of commands and flags for scripts, and the help of each command for people.
func (w *world) help() {
	w.r.section("CLI: help", false)
	var walk func(path ...string)
	walk = func(path ...string) {
		out, _, status := w.run(append(slices.Clone(path), "--help")...)
		w.r.begin("image-builder %s", strings.Join(append(slices.Clone(path), "--help"), " "))
		w.r.line("status %d", status)
		for _, f := range regexp.MustCompile(`(?m)^ +(-\w, )?--([a-z-]+)( [a-z0-9A-Z]+)?`).FindAllString(out, -1) {
			w.r.line("%s", strings.TrimSpace(f))
		}
		w.r.text("help", spaces.ReplaceAllString(out, "  "))
		_, list, _ := strings.Cut(out, "Available Commands:\n")
		list, _, _ = strings.Cut(list, "\n\n")
		for _, m := range subcommand.FindAllStringSubmatch(list, -1) {
			if m[1] != "help" && m[1] != "completion" {
				walk(append(slices.Clone(path), m[1])...)
			}
		}
	}
	walk()
}

// playOperator calls imagebuilder.v1.Cluster, on the socket and on the public port.
func (w *world) playOperator() {
	r := w.r
	r.section("operators' API", false)
	op := imagebuilderv1.NewClusterClient(w.socket())
	r.call("the leader's view")(op.Members(w.ctx, &imagebuilderv1.MembersRequest{}))
	r.call("the node's own view")(op.Members(w.ctx, &imagebuilderv1.MembersRequest{Stale: true}))
	r.call("no such node")(op.DrainNode(w.ctx, &imagebuilderv1.DrainNodeRequest{Node: "nobody"}))
	r.call("a node")(op.DrainNode(w.ctx, &imagebuilderv1.DrainNodeRequest{Node: "n1"}))
	r.call("back")(op.DrainNode(w.ctx, &imagebuilderv1.DrainNodeRequest{Node: "n1", Undrain: true}))
	r.call("to no other node")(op.TransferLeadership(w.ctx, &imagebuilderv1.TransferLeadershipRequest{}))
	r.call("to no such node")(op.TransferLeadership(w.ctx, &imagebuilderv1.TransferLeadershipRequest{To: "nobody"}))
	r.call("no such node")(op.RemoveNode(w.ctx, &imagebuilderv1.RemoveNodeRequest{Node: "nobody"}))
	r.call("itself")(op.RemoveNode(w.ctx, &imagebuilderv1.RemoveNodeRequest{Node: "n1"}))
	r.call("nothing to seal")(op.Reseal(w.ctx, &imagebuilderv1.ResealRequest{}))

	all, err := drain(op.SaveSnapshot(w.ctx, &imagebuilderv1.SaveSnapshotRequest{}))
	var snapshot []byte
	for _, m := range all {
		snapshot = append(snapshot, m.(*imagebuilderv1.SaveSnapshotResponse).Chunk...)
	}
	r.begin("SaveSnapshot")
	r.line("some bytes: %t", len(snapshot) > 0)
	r.end(err)
	restore := func(step string, raw []byte) {
		stream, err := op.RestoreSnapshot(w.ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		_ = stream.Send(&imagebuilderv1.RestoreSnapshotRequest{Chunk: raw})
		r.call(step)(stream.CloseAndRecv())
	}
	restore("no snapshot", []byte("no snapshot"))
	restore("a snapshot", snapshot)
	r.stream("WatchBuilds", "from before the snapshot")(drain(w.n.Native.WatchBuilds(w.ctx, &imagebuilderv1.WatchBuildsRequest{AfterIndex: 1})))
	file := filepath.Join(w.t.TempDir(), "snapshot")
	socket := "--server=unix://" + filepath.Join(w.n.Dir, "op.sock")
	w.cli(text, "snapshot", "save", file, socket)
	w.cli(none, "snapshot", "inspect", file)
	w.cli(text, "snapshot", "restore", file, socket)

	d := imagebuilderv1.Cluster_ServiceDesc
	var methods []string
	for _, m := range d.Methods {
		methods = append(methods, m.MethodName)
	}
	for _, m := range d.Streams {
		methods = append(methods, m.StreamName)
	}
	for _, m := range append(methods, "None") {
		s, err := w.n.Conn.NewStream(w.ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+d.ServiceName+"/"+m)
		if err == nil {
			_ = s.SendMsg(&emptypb.Empty{})
			_ = s.CloseSend()
			err = s.RecvMsg(&emptypb.Empty{})
		}
		r.begin("%s on the public port", m)
		r.end(err)
	}
}

// playDeploy records the texts of alerts and dashboards.
func (w *world) playDeploy() {
	r := w.r
	r.section("alerts and dashboards", false)
	root := filepath.Join("..", "..", "deploy")
	raw, err := os.ReadFile(filepath.Join(root, "alerts", "image-builder.rules.yaml"))
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations map[string]string
			}
		}
	}
	if err == nil {
		err = yaml.Unmarshal(raw, &rules)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, rule := range g.Rules {
			r.step = "alert " + rule.Alert
			r.text("summary", rule.Annotations["summary"])
			r.text("description", rule.Annotations["description"])
		}
	}
	files, err := filepath.Glob(filepath.Join(root, "dashboards", "*.json"))
	if err != nil || len(files) == 0 {
		w.t.Fatal(files, err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		var board struct {
			Title  string
			Panels []struct{ Title, Description string }
		}
		if err == nil {
			err = json.Unmarshal(raw, &board)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		r.step = fmt.Sprintf("dashboard %s", board.Title)
		for _, p := range board.Panels {
			r.text(p.Title, p.Description)
		}
	}
}
