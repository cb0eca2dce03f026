package deploytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/lint"
)

const chartDir = Root + "/helm/image-builder"

// Modules with the CRDs of other projects.
const (
	chaosMesh    = "github.com/chaos-mesh/chaos-mesh@v0.9.1-0.20260902003049-47411975a8cb"
	certManager  = "github.com/cert-manager/cert-manager@v1.21.2"
	promOperator = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
)

var repositories = map[string]any{"orchestrator": map[string]any{
	"baseImageRepository": "registry.example.com/base", "workspaceImageRepository": "registry.example.com/workspace",
}}

// variants are sets of values. Tests render the chart with each.
var variants = map[string]struct {
	files []string
	over  map[string]any
}{
	"defaults":   {nil, map[string]any{"config": repositories}},
	"gitpod":     {[]string{"values-gitpod.yaml"}, nil},
	"standalone": {[]string{"values-standalone.yaml"}, nil},
	"five": {nil, map[string]any{
		"config": repositories, "replicas": 5, "cluster": map[string]any{"voters": 5},
		"monitoring": map[string]any{
			"serviceMonitor": map[string]any{"enabled": true}, "prometheusRule": map[string]any{"enabled": true},
			"dashboards": map[string]any{"enabled": true},
		},
	}},
	"existing": {nil, map[string]any{
		"config": repositories, "antiAffinity": "preferred", "zoneSpread": map[string]any{"enabled": false},
		"certs": map[string]any{"mode": "existing", "existingSecret": "mine"},
		"keys":  map[string]any{"existingSealingSecret": "s", "existingGossipSecret": "g"},
		"api":   map[string]any{"tlsSecret": "api", "clientAuth": "require"},
		"tracing": map[string]any{
			"endpoint": "otel-collector.observability.svc:4317", "sampleRatio": 0.25, "tls": map[string]any{"secret": "tracing", "clientCertificate": true},
		},
	}},
	"pods": {nil, map[string]any{
		"config": repositories, "kubernetes": map[string]any{"enabled": true, "namespace": "builds", "profile": "userns"},
	}},
	"endpoints": {nil, map[string]any{
		"config": repositories, "cluster": map[string]any{"peersFrom": "endpoints", "leaderLabel": true},
	}},
	"issuer": {nil, map[string]any{
		"config": repositories, "cluster": map[string]any{"gossip": map[string]any{"enabled": false}, "zoneFrom": "none", "leaveOnScaleDown": false},
		"certs":         map[string]any{"mode": "certManager", "certManager": map[string]any{"issuerRef": map[string]any{"name": "vault", "kind": "ClusterIssuer"}}},
		"networkPolicy": map[string]any{"enabled": false}, "podDisruptionBudget": map[string]any{"enabled": false},
	}},
}

func render(t *testing.T, variant string) []Object {
	t.Helper()
	v := variants[variant]
	files := slices.Clone(v.files)
	for i, f := range files {
		files[i] = filepath.Join(chartDir, f)
	}
	m, err := Render(chartDir, Release{Name: "image-builder", Namespace: "image-builder"}, files, v.over)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Objects(Join(m))
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func each(t *testing.T, f func(t *testing.T, objects []Object)) {
	for _, name := range slices.Sorted(maps.Keys(variants)) {
		t.Run(name, func(t *testing.T) { f(t, render(t, name)) })
	}
}

func find(objects []Object, kind, name string) Object {
	for _, o := range objects {
		if o.Kind() == kind && o.Name() == name {
			return o
		}
	}
	return nil
}

func Test_Chart_Lint(t *testing.T) {
	for name, v := range variants {
		values := map[string]any{}
		for _, f := range v.files {
			read, err := chartutil.ReadValuesFile(filepath.Join(chartDir, f))
			if err != nil {
				t.Fatal(err)
			}
			values = read.AsMap()
		}
		values = chartutil.CoalesceTables(maps.Clone(v.over), values)
		if values == nil {
			values = map[string]any{}
		}
		for _, m := range lint.AllWithKubeVersion(chartDir, values, "image-builder", nil).Messages {
			if m.Severity > 1 {
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

func Test_Chart_RefusesWrongValues(t *testing.T) {
	for name, c := range map[string]struct {
		over map[string]any
		want string
	}{
		"no repositories": {map[string]any{}, "baseImageRepository"},
		"unknown key":     {map[string]any{"config": repositories, "replica": 3}, "replica"},
		"two voters":      {map[string]any{"config": repositories, "cluster": map[string]any{"voters": 2}}, "voters"},
		"no certificates": {map[string]any{"config": repositories, "replicas": 11}, "certs.builtin.nodes"},
		"no port":         {map[string]any{"config": repositories, "tracing": map[string]any{"endpoint": "otel-collector"}}, "endpoint"},
		"no ratio":        {map[string]any{"config": repositories, "tracing": map[string]any{"sampleRatio": 2}}, "sampleRatio"},
		"no secret":       {map[string]any{"config": repositories, "certs": map[string]any{"mode": "existing"}}, "certs.existingSecret"},
	} {
		_, err := Render(chartDir, Release{Name: "ib", Namespace: "ns"}, nil, c.over)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: expected an error about %s, got %v", name, c.want, err)
		}
	}
}

var crds = sync.OnceValues(func() (CRDs, map[string]error) {
	c, errs := CRDs{}, map[string]error{}
	for group, from := range map[string][2]string{
		"cert-manager.io":       {certManager, "deploy/crds/*.yaml"},
		"monitoring.coreos.com": {promOperator, "example/prometheus-operator-crd/*.yaml"},
		"chaos-mesh.org":        {chaosMesh, "config/crd/bases/*.yaml"},
	} {
		if err := c.LoadCRDs(from[0], from[1]); err != nil {
			errs[group] = err
		}
	}
	return c, errs
})

// checkCRD checks an object by the schema of its CRD. If the module with the schema cannot be
// downloaded, it only logs this.
func checkCRD(t *testing.T, o Object) {
	t.Helper()
	c, errs := crds()
	group, _, _ := strings.Cut(fmt.Sprint(o["apiVersion"]), "/")
	err := errs[group]
	if errors.Is(err, ErrUnavailable) {
		t.Logf("NOT CHECKED: %s %s: %v", o.Kind(), o.Name(), err)
		return
	}
	if err == nil {
		err = c.Check(o)
	}
	if err != nil {
		t.Errorf("%s %s: %v", o.Kind(), o.Name(), err)
	}
}

// checkAll checks objects by the types of Kubernetes and by CRDs, and that no object occurs twice.
func checkAll(t *testing.T, objects []Object) {
	t.Helper()
	seen := map[string]bool{}
	for _, o := range objects {
		id := o.Kind() + " " + o.Name()
		if seen[id] {
			t.Errorf("%s occurs twice", id)
		}
		seen[id] = true
		if !Builtin(o) {
			checkCRD(t, o)
		} else if err := CheckBuiltin(o); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
}

func Test_Chart_Objects(t *testing.T) { each(t, checkAll) }

func Test_Chart_SelectorsAndReferences(t *testing.T) {
	// Objects from outside the chart: made by hand, by cert-manager or by the certificate job.
	external := []string{
		"registry-credentials", "builtin-registry-auth", "image-builder-mk3-tls", "image-builder-mk3-config", "mine", "s", "g", "api", "tracing",
		"image-builder-peer", "image-builder-mk3-peer",
	}
	each(t, func(t *testing.T, objects []Object) {
		var pods []map[string]any
		for _, o := range objects {
			if o.Kind() != "StatefulSet" {
				continue
			}
			labels := o.At("spec", "template", "metadata", "labels").(map[string]any)
			pods = append(pods, labels)
			if !matches(o.At("spec", "selector", "matchLabels"), labels) {
				t.Errorf("StatefulSet %s does not select its pods", o.Name())
			}
			if find(objects, "Service", fmt.Sprint(o.At("spec", "serviceName"))) == nil {
				t.Errorf("StatefulSet %s: its service does not exist", o.Name())
			}
			for _, v := range o.At("spec", "template", "spec", "volumes").([]any) {
				for kind, name := range references(v.(map[string]any)) {
					if find(objects, kind, name) == nil && !slices.Contains(external, name) {
						t.Errorf("StatefulSet %s: no %s %q", o.Name(), kind, name)
					}
				}
			}
		}
		for _, o := range objects {
			var selector any
			switch o.Kind() {
			case "Service":
				selector = o.At("spec", "selector")
			case "PodDisruptionBudget":
				selector = o.At("spec", "selector", "matchLabels")
			case "NetworkPolicy":
				selector = o.At("spec", "podSelector", "matchLabels")
			default:
				continue
			}
			if m, _ := selector.(map[string]any); m["image-builder/install"] != nil {
				continue // pods that nodes create
			}
			if !slices.ContainsFunc(pods, func(labels map[string]any) bool { return matches(selector, labels) }) {
				t.Errorf("%s %s selects no pods", o.Kind(), o.Name())
			}
		}
	})
}

func matches(selector any, labels map[string]any) bool {
	m, _ := selector.(map[string]any)
	for k, v := range m {
		if labels[k] != v {
			return false
		}
	}
	return len(m) > 0
}

func references(volume map[string]any) map[string]string {
	out := map[string]string{}
	o := Object(volume)
	if n := o.At("secret", "secretName"); n != nil {
		out["Secret"] = fmt.Sprint(n)
	}
	if n := o.At("configMap", "name"); n != nil {
		out["ConfigMap"] = fmt.Sprint(n)
	}
	return out
}

// buildsRules are all rights of nodes in the namespace of build pods. A test in
// scheduler/kubernetes shows that nodes need each verb.
const buildsRules = "pods: get list watch create delete patch; secrets: get create delete patch; configmaps: get create"

// Test_Chart_LeastRights: nodes and daemons have no token, no rights and no writable root. Only the
// certificate job may write secrets, and only its own. If nodes build in pods, only the container
// that needs the token has it, and its rights are in the namespace of the build pods.
func Test_Chart_LeastRights(t *testing.T) {
	each(t, func(t *testing.T, objects []Object) {
		for _, o := range objects {
			switch o.Kind() {
			case "StatefulSet":
				if o.At("spec", "template", "spec", "automountServiceAccountToken") != false {
					t.Errorf("pods of %s get a token", o.Name())
				}
				if strings.HasSuffix(o.Name(), "-buildkit") {
					continue
				}
				spec := Object(o.At("spec", "template", "spec").(map[string]any))
				if spec.At("securityContext", "runAsNonRoot") != true {
					t.Errorf("pods of %s may run as root", o.Name())
				}
				for _, list := range []string{"initContainers", "containers"} {
					for _, c := range spec[list].([]any) {
						c := Object(c.(map[string]any))
						if c.At("securityContext", "readOnlyRootFilesystem") != true || c.At("securityContext", "allowPrivilegeEscalation") != false {
							t.Errorf("container %v of %s: root is writable or privileges can grow", c["name"], o.Name())
						}
					}
				}
			case "RoleBinding":
				name := nodesName(objects)
				pods := find(objects, "Role", o.Name()) != nil && (o.Name() == name+"-builds" || o.Name() == name+"-nodes")
				if !strings.Contains(o.Name(), "-certs") && !pods {
					t.Errorf("unexpected RoleBinding %s", o.Name())
				}
				if pods && fmt.Sprint(o["subjects"]) != "[map[kind:ServiceAccount name:"+name+" namespace:image-builder]]" {
					t.Errorf("RoleBinding %s is for %v", o.Name(), o["subjects"])
				}
			case "ClusterRole", "ClusterRoleBinding":
				t.Errorf("unexpected %s %s", o.Kind(), o.Name())
			case "Role":
				if strings.HasSuffix(o.Name(), "-builds") {
					if got := rulesOf(o); got != buildsRules || o.At("metadata", "namespace") != "builds" {
						t.Errorf("Role %s allows %s in %v", o.Name(), got, o.At("metadata", "namespace"))
					}
					continue
				}
				if strings.HasSuffix(o.Name(), "-nodes") {
					want := "apps statefulsets " + nodesName(objects) + ": get"
					if strings.HasSuffix(t.Name(), "/endpoints") {
						want = "discovery.k8s.io endpointslices: list; pods: get list patch; " + want
					}
					if got := rulesOf(o); got != want {
						t.Errorf("Role %s allows %s, want %s", o.Name(), got, want)
					}
					continue
				}
				for _, r := range o["rules"].([]any) {
					r := Object(r.(map[string]any))
					if fmt.Sprint(r["resources"]) != "[secrets]" || r["resourceNames"] == nil && fmt.Sprint(r["verbs"]) != "[create]" {
						t.Errorf("Role %s has a rule that is too wide: %v", o.Name(), r)
					}
				}
			}
		}
	})
}

// rulesOf formats the rules of a role as "group resource name: verbs; ...".
func rulesOf(role Object) string {
	var out []string
	for _, r := range role["rules"].([]any) {
		r := Object(r.(map[string]any))
		words := func(key string) string { return strings.Trim(fmt.Sprint(r[key]), "[]") }
		of := []string{words("apiGroups"), words("resources")}
		if r["resourceNames"] != nil {
			of = append(of, words("resourceNames"))
		}
		out = append(out, strings.TrimSpace(strings.Join(of, " "))+": "+words("verbs"))
	}
	return strings.Join(out, "; ")
}

// Test_Chart_Token: only the container that uses the Kubernetes API has a token for it.
func Test_Chart_Token(t *testing.T) {
	each(t, func(t *testing.T, objects []Object) {
		spec := Object(find(objects, "StatefulSet", nodesName(objects)).At("spec", "template", "spec").(map[string]any))
		var has []string
		for _, list := range []string{"initContainers", "containers"} {
			for _, c := range spec[list].([]any) {
				c := c.(map[string]any)
				if strings.Contains(fmt.Sprint(c["volumeMounts"]), "serviceaccount") {
					has = append(has, fmt.Sprint(c["name"]))
				}
			}
		}
		want := ""
		if name := nodesName(objects); find(objects, "Role", name+"-builds") != nil || find(objects, "Role", name+"-nodes") != nil {
			want = "image-builder"
		}
		if got := strings.Join(has, " "); got != want {
			t.Errorf("containers with a token: %q, want %q", got, want)
		}
	})
}

// nodesName returns the name of the StatefulSet of the nodes.
func nodesName(objects []Object) string {
	for _, o := range objects {
		if o.Kind() == "StatefulSet" && !strings.HasSuffix(o.Name(), "-buildkit") {
			return o.Name()
		}
	}
	return ""
}

// Test_Chart_KeepsOneMajority: a voluntary disruption stops one node at a time.
func Test_Chart_KeepsOneMajority(t *testing.T) {
	pdb := find(render(t, "five"), "PodDisruptionBudget", "image-builder")
	if pdb.At("spec", "maxUnavailable") != float64(1) && fmt.Sprint(pdb.At("spec", "maxUnavailable")) != "1" {
		t.Errorf("got maxUnavailable %v", pdb.At("spec", "maxUnavailable"))
	}
	headless := find(render(t, "five"), "Service", "image-builder-nodes")
	if headless.At("spec", "publishNotReadyAddresses") != true || headless.At("spec", "clusterIP") != "None" {
		t.Errorf("nodes that are not ready cannot find each other: %v", headless["spec"])
	}
}

// Test_Chart_BuildPods: rights and network policies apply to the pods that the service creates,
// even if `config` overrides their namespace or label.
func Test_Chart_BuildPods(t *testing.T) {
	for name, c := range map[string]struct {
		config             map[string]any
		install, namespace string
	}{
		"chart's":     {map[string]any{}, "mine", "builds"},
		"own install": {map[string]any{"kubernetes": map[string]any{"install": "second"}}, "second", "builds"},
		"own cluster": {map[string]any{"cluster": map[string]any{"name": "third"}}, "third", "builds"},
		"both":        {map[string]any{"cluster": map[string]any{"name": "third"}, "kubernetes": map[string]any{"install": "second"}}, "second", "builds"},
		"namespace":   {map[string]any{"kubernetes": map[string]any{"namespace": "elsewhere"}}, "mine", "elsewhere"},
		"node's own":  {map[string]any{"kubernetes": map[string]any{"namespace": ""}}, "mine", "ns"},
	} {
		c.config["orchestrator"] = repositories["orchestrator"]
		m, err := Render(chartDir, Release{Name: "image-builder", Namespace: "ns"}, nil, map[string]any{
			"config": c.config, "cluster": map[string]any{"name": "mine"}, "kubernetes": map[string]any{"enabled": true, "namespace": "builds"},
		})
		if err != nil {
			t.Fatal(err)
		}
		objects, err := Objects(Join(m))
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"Role", "RoleBinding", "ServiceAccount", "NetworkPolicy"} {
			if o := find(objects, kind, "image-builder-builds"); o == nil || o.At("metadata", "namespace") != c.namespace {
				t.Errorf("%s: the %s of build pods is not in %s: %v", name, kind, c.namespace, o)
			}
		}
		if got := fmt.Sprint(find(objects, "NetworkPolicy", "image-builder-builds").At("spec", "podSelector", "matchLabels")); got != "map[image-builder/install:"+c.install+"]" {
			t.Errorf("%s: the policy of build pods is for %s, not %s", name, got, c.install)
		}
		egress := fmt.Sprint(find(objects, "NetworkPolicy", "image-builder").At("spec", "egress"))
		if !strings.Contains(egress, "image-builder/install:"+c.install+"]") || !strings.Contains(egress, "kubernetes.io/metadata.name:"+c.namespace+"]") {
			t.Errorf("%s: nodes may not connect to pods of %s in %s: %s", name, c.install, c.namespace, egress)
		}
	}
}

// Test_Chart_GreatNumbers: large numbers of the configuration are rendered as integers.
func Test_Chart_GreatNumbers(t *testing.T) {
	m, err := Render(chartDir, Release{Name: "ib", Namespace: "ns"}, nil, map[string]any{"config": map[string]any{
		"orchestrator": repositories["orchestrator"], "logs": map[string]any{"maxBytes": float64(1 << 40)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Objects(Join(m))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(find(objects, "ConfigMap", "ib-image-builder").At("data", "config.json"))
	var config map[string]any
	if err := json.Unmarshal([]byte(text), &config); err != nil || !strings.Contains(text, "1099511627776") {
		t.Errorf("%v: %s", err, text)
	}
}

func Test_Chart_NodesFormOneCluster(t *testing.T) {
	for variant, want := range map[string]float64{"defaults": 3, "five": 5} {
		var config struct {
			Cluster struct {
				Expect, Voters float64
				DNS            string
			}
		}
		text := fmt.Sprint(find(render(t, variant), "ConfigMap", "image-builder").At("data", "config.json"))
		if err := json.Unmarshal([]byte(text), &config); err != nil {
			t.Fatal(err)
		}
		if config.Cluster.Expect != want || config.Cluster.DNS != "image-builder-nodes.image-builder.svc.cluster.local:7800" {
			t.Errorf("%s: got %+v", variant, config.Cluster)
		}
	}
}

func Test_Chaos_Manifests(t *testing.T) {
	files, _ := filepath.Glob(Root + "/chaos/*/*.yaml")
	if len(files) < 20 {
		t.Fatalf("found %d experiments", len(files))
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, heading := range []string{"# Steady state: ", "# Expected: ", "# Watch: "} {
			if !strings.Contains(string(raw), heading) {
				t.Errorf("%s has no comment %q", f, heading)
			}
		}
		objects, err := Objects(string(raw))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects {
			if strings.Contains(f, "/chaos-mesh/") {
				checkCRD(t, o)
			} else if o.Kind() != "ChaosEngine" {
				t.Errorf("%s: unexpected kind %s", f, o.Kind())
			}
		}
	}
}

// Test_Chaos_Scripts: the scripts have valid syntax and print their usage. As root, the test runs
// the command rate in a network namespace.
func Test_Chaos_Scripts(t *testing.T) {
	files, _ := filepath.Glob(Root + "/chaos/*/*.sh")
	if len(files) != 2 {
		t.Fatalf("found %v", files)
	}
	for _, f := range files {
		if out, err := exec.Command("sh", "-n", f).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", f, err, out)
		}
		for _, args := range [][]string{{f}, {f, "nonsense"}, {f, "rate"}, {f, "slow"}} {
			out, err := exec.Command("sh", args...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "end the fault") && !strings.Contains(string(out), "end all faults") {
				t.Errorf("%v: %v\n%s", args, err, out)
			}
		}
	}
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	script, err := filepath.Abs(Root + "/chaos/tc/tc.sh")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("unshare", "--net", "sh", "-euc", `ip link set lo up; DEV=lo "$0" rate 1mbit; DEV=lo "$0" off`, script).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "rate 1Mbit") || strings.Count(string(out), "tbf") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}
