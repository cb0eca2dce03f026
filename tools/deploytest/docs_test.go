package deploytest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/strvals"

	"github.com/image-builder-ha/image-builder/test/docs"
)

const root = "../.."

// typed returns the commands of the documentation whose program has the given name.
func typed(t *testing.T, name string) (out []docs.Command) {
	t.Helper()
	all, err := docs.Commands(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Words[0] == name {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		t.Fatalf("the documentation has no command of %s", name)
	}
	return out
}

// options splits arguments into options with their values, and the rest. withValue and alone list
// the known options with and without a value. Arguments after -- are not options.
func options(t *testing.T, c docs.Command, args []string, withValue, alone []string) (opts map[string][]string, rest []string) {
	t.Helper()
	opts = map[string][]string{}
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		switch {
		case args[i] == "--":
			return opts, append(rest, args[i:]...)
		case !strings.HasPrefix(name, "-"):
			rest = append(rest, args[i])
		case slices.Contains(alone, args[i]):
			opts[name] = append(opts[name], "")
		case !slices.Contains(withValue, name) || !joined && i+1 == len(args):
			t.Errorf("%s: option %s is not known to this test, or has no value", c.At(), name)
		case joined:
			opts[name] = append(opts[name], value)
		default:
			i++
			opts[name] = append(opts[name], args[i])
		}
	}
	return opts, rest
}

// Test_Docs_Helm renders the chart by the helm commands of the documentation, with the values of an
// existing release as the base.
func Test_Docs_Helm(t *testing.T) {
	for _, c := range typed(t, "helm") {
		opts, rest := options(t, c, c.Words[1:], []string{"--set", "-f", "--namespace"}, []string{"--reuse-values", "--install", "--create-namespace", "--wait"})
		if rest[0] == "uninstall" && len(rest) == 2 {
			continue // Test_Docs_Uninstall
		}
		if len(rest) != 3 || rest[0] != "upgrade" && rest[0] != "install" {
			t.Errorf("%s: this test supports only upgrade and install, with a release and a chart", c.At())
			continue
		}
		values := map[string]any{}
		for _, s := range opts["--set"] {
			if err := strvals.ParseInto(s, values); err != nil {
				t.Errorf("%s: %v", c.At(), err)
			}
		}
		files := []string{Root + "/helm/image-builder/values-standalone.yaml"}
		for _, f := range opts["-f"] {
			files = append(files, filepath.Join(root, f))
		}
		manifests, err := Render(filepath.Join(root, rest[2]), Release{Name: rest[1], Namespace: "image-builder", Upgrade: rest[0] == "upgrade"}, files, values)
		if err != nil {
			t.Errorf("%s: %v", c.At(), err)
			continue
		}
		objects, err := Objects(Join(manifests))
		if err != nil {
			t.Errorf("%s: %v", c.At(), err)
			continue
		}
		if want := values["replicas"]; want != nil && fmt.Sprint(find(objects, "StatefulSet", rest[1]).At("spec", "replicas")) != fmt.Sprint(want) {
			t.Errorf("%s: the stateful set does not have %v replicas", c.At(), want)
		}
	}
}

// Test_Docs_Uninstall: keys and volumes stay when a release is removed, as docs/install.md
// promises.
func Test_Docs_Uninstall(t *testing.T) {
	objects := render(t, "standalone")
	for _, name := range []string{"image-builder-sealing", "image-builder-gossip"} {
		if find(objects, "Secret", name).At("metadata", "annotations", "helm.sh/resource-policy") != "keep" {
			t.Errorf("the secret %s is removed with the release", name)
		}
	}
	if keep := find(objects, "StatefulSet", "image-builder").At("spec", "persistentVolumeClaimRetentionPolicy", "whenDeleted"); keep != "Retain" {
		t.Errorf("volumes of a stateful set that is deleted: %v", keep)
	}
}

// Test_Docs_Kubectl: the kubectl commands of the documentation name objects of the plain manifests,
// which are those of the chart, and existing files.
func Test_Docs_Kubectl(t *testing.T) {
	raw, err := os.ReadFile(Root + "/kubernetes/image-builder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Objects(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range typed(t, "kubectl") {
		opts, rest := options(t, c, c.Words[1:], []string{"-n", "-c", "-f", "--from-file", "--docker-server", "--docker-username", "--docker-password"}, nil)
		for _, ns := range opts["-n"] {
			if find(objects, "Namespace", ns) == nil {
				t.Errorf("%s: there is no namespace %s", c.At(), ns)
			}
		}
		switch what := strings.Join(rest[:min(2, len(rest))], " "); {
		case rest[0] == "apply":
			if len(opts["-f"]) == 0 {
				t.Errorf("%s: applies nothing", c.At())
			}
			for _, f := range opts["-f"] { // relative to the root or to the document
				if _, err := os.Stat(filepath.Join(root, f)); err == nil {
					continue
				}
				if _, err := os.Stat(filepath.Join(root, filepath.Dir(c.File), f)); err != nil {
					t.Errorf("%s: there is no file %s", c.At(), f)
				}
			}
		case what == "create namespace":
			if find(objects, "Namespace", rest[2]) == nil {
				t.Errorf("%s: there is no namespace %s", c.At(), rest[2])
			}
		case what == "create secret":
			if !regexp.MustCompile(`(?m)(secretName|secret:\s+name): ` + rest[3] + `(,|$)`).Match(raw) {
				t.Errorf("%s: nothing uses the secret %s", c.At(), rest[3])
			}
		case what == "rollout status":
			kind, name, _ := strings.Cut(rest[2], "/")
			if kind != "statefulset" || find(objects, "StatefulSet", name) == nil {
				t.Errorf("%s: there is no %s", c.At(), rest[2])
			}
		case rest[0] == "exec":
			set := find(objects, "StatefulSet", rest[1][:strings.LastIndex(rest[1], "-")])
			if set == nil {
				t.Errorf("%s: no stateful set has a pod %s", c.At(), rest[1])
				continue
			}
			containers := set.At("spec", "template", "spec", "containers").([]any)
			for _, name := range opts["-c"] {
				if !slices.ContainsFunc(containers, func(o any) bool { return o.(map[string]any)["name"] == name }) {
					t.Errorf("%s: its pods have no container %s", c.At(), name)
				}
			}
			if len(rest) < 5 || rest[2] != "--" || rest[3] != "image-builder" {
				t.Errorf("%s: this test supports only commands of image-builder", c.At())
			} else if rest[4] == "cluster" && !strings.Contains(string(raw), "unix:///var/lib/image-builder/operator.sock") {
				t.Errorf("%s: it needs the operator socket, and the pod does not name the socket", c.At())
			}
		default:
			t.Errorf("%s: this test does not support the command", c.At())
		}
	}
}

// Test_Docs_PlainSecrets runs the commands of deploy/kubernetes/README.md that make files, puts the
// files into secrets as its kubectl commands do, and runs the script of the pods that copies them.
func Test_Docs_PlainSecrets(t *testing.T) {
	const text = "deploy/kubernetes/README.md"
	work, secrets := t.TempDir(), t.TempDir()
	for _, c := range typed(t, "image-builder") {
		if c.File != text {
			continue
		}
		cmd := exec.CommandContext(t.Context(), mustBinary(t), c.Words[1:]...)
		cmd.Dir = work
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", c.At(), err, out)
		}
	}
	folders := map[string]string{"image-builder-peer": "/peer", "image-builder-sealing": "/secrets/sealing", "image-builder-gossip": "/secrets/gossip"}
	made := 0
	for _, c := range typed(t, "kubectl") {
		if c.File != text || !strings.Contains(c.String(), "secret generic") {
			continue
		}
		// A shell splits the command and runs its substitutions.
		cmd := exec.CommandContext(t.Context(), "sh", "-euc", "printf '%s\\n' "+c.String())
		cmd.Dir = work
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", c.At(), err)
		}
		words := strings.Fields(string(out))
		name := words[slices.Index(words, "generic")+1]
		for _, w := range words {
			file, ok := strings.CutPrefix(w, "--from-file=")
			if !ok {
				continue
			}
			raw, err := os.ReadFile(filepath.Join(work, file))
			if err != nil {
				t.Fatalf("%s: %v", c.At(), err)
			}
			writeFile(t, filepath.Join(secrets+folders[name], filepath.Base(file)), string(raw))
		}
		made++
	}
	if made != len(folders) {
		t.Errorf("%d secrets, expected %d", made, len(folders))
	}
	manifests, err := os.ReadFile(Root + "/kubernetes/image-builder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Objects(string(manifests))
	if err != nil {
		t.Fatal(err)
	}
	files := fmt.Sprint(find(objects, "ConfigMap", "image-builder-scripts").At("data", "files.sh"))
	for i := range 3 {
		run := filepath.Join(t.TempDir(), "run")
		if err := os.Mkdir(run, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := script(t, files, map[string]string{"/secrets": secrets + "/secrets", "/peer": secrets + "/peer", "/run/image-builder": run})
		cmd.Args = append(cmd.Args, "once")
		cmd.Env = append(cmd.Env, fmt.Sprintf("POD_NAME=image-builder-%d", i), "PEER_HOST=a", "ZONE=zone-a")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("pod %d: %v\n%s", i, err, out)
		}
		for _, f := range []string{"sealing.json", "gossip.key", "node.pem", "node-key.pem", "ca.pem"} {
			if _, err := os.Stat(filepath.Join(run, f)); err != nil {
				t.Errorf("pod %d: %v", i, err)
			}
		}
	}
}
