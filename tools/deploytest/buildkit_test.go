package deploytest

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// unclipped is the environment in which a BuildKit daemon forwards the full output of steps. By
// default it cuts the output at 2 MiB and at 200 KiB a second.
var unclipped = map[string]string{"BUILDKIT_STEP_LOG_MAX_SIZE": "-1", "BUILDKIT_STEP_LOG_MAX_SPEED": "-1"}

// daemons returns the environment of each container that runs BuildKit.
func daemons(objects []Object) (out []map[string]string) {
	for _, o := range objects {
		containers, _ := o.At("spec", "template", "spec", "containers").([]any)
		for _, c := range containers {
			c := Object(c.(map[string]any))
			if !strings.Contains(fmt.Sprint(c["image"]), "buildkit") {
				continue
			}
			env := map[string]string{}
			list, _ := c["env"].([]any)
			for _, e := range list {
				e := Object(e.(map[string]any))
				env[fmt.Sprint(e["name"])] = fmt.Sprint(e["value"])
			}
			out = append(out, env)
		}
	}
	return out
}

func checkUnclipped(t *testing.T, env map[string]string) {
	t.Helper()
	for name, want := range unclipped {
		if env[name] != want {
			t.Errorf("a BuildKit daemon has %s=%q, want %q: it cuts the logs of builds", name, env[name], want)
		}
	}
}

func Test_BuildKit_DaemonsDoNotClipLogs(t *testing.T) {
	seen := 0
	each(t, func(t *testing.T, objects []Object) {
		for _, env := range daemons(objects) {
			seen++
			checkUnclipped(t, env)
		}
	})
	if seen == 0 {
		t.Error("no variant of the chart runs BuildKit")
	}
	plain, err := os.ReadFile(Root + "/kubernetes/image-builder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	objects, err := Objects(string(plain))
	if err != nil {
		t.Fatal(err)
	}
	for _, env := range daemons(objects) {
		checkUnclipped(t, env)
	}

	raw, err := os.ReadFile(Root + "/compose/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var compose struct {
		Services map[string]struct{ Environment map[string]string }
	}
	if err := yaml.Unmarshal(raw, &compose); err != nil {
		t.Fatal(err)
	}
	checkUnclipped(t, compose.Services["buildkit"].Environment)

	// These documents tell the reader which settings their own daemons need.
	for _, file := range []string{"/../README.md", "/kubernetes/README.md"} {
		text, err := os.ReadFile(Root + file)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range unclipped {
			if !strings.Contains(string(text), name+"="+value) {
				t.Errorf("%s does not name %s=%s, which BuildKit needs", file, name, value)
			}
		}
	}
}
