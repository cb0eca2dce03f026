package kubernetes

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

var update = flag.Bool("update", false, "write the golden files anew")

func exampleOptions() *Options {
	return &Options{
		Namespace: "builds", Install: "main", Node: "node-a",
		Pod: PodOptions{Images: Images{Worker: "image-builder:1", BuildKit: "buildkit:1"}, Profile: Rootless, TerminationSeconds: 30},
	}
}

func exampleWorkload(dockerfile bool) *workload.Workload {
	w := &workload.Workload{
		BuildID: "0193a1b2", Attempt: 2, Epoch: 7, Ref: "reg/workspace:x", BaseRef: "reg/base:x",
		Source:   &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "busybox@sha256:aa"}}},
		Deadline: time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC),
	}
	if dockerfile {
		w.Source = &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{}}}
	}
	return w
}

var (
	exampleInstall = metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "image-builder-main-builds", UID: "u1"}
	exampleNow     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Test_PodOf compares pods with those in testdata.
func Test_PodOf(t *testing.T) {
	limits := corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourceEphemeralStorage: resource.MustParse("20Gi")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourceEphemeralStorage: resource.MustParse("20Gi")},
	}
	for name, c := range map[string]struct {
		dockerfile bool
		change     func(*PodOptions)
	}{
		"copy":       {false, nil},
		"rootless":   {true, nil},
		"userns":     {true, func(p *PodOptions) { p.Profile = UserNS }},
		"privileged": {true, func(p *PodOptions) { p.Profile = Privileged }},
		"everything": {true, func(p *PodOptions) {
			p.ImagePullPolicy, p.ImagePullSecrets = corev1.PullAlways, []string{"pull"}
			p.ServiceAccount, p.PriorityClass, p.RuntimeClass, p.SchedulerName = "builder", "low", "kata", "other"
			p.BuildKit = limits
			p.NodeSelector = map[string]string{"pool": "builds"}
			p.Tolerations = []corev1.Toleration{{Key: "builds", Operator: corev1.TolerationOpExists}}
			p.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}}
			p.Labels, p.Annotations = map[string]string{"team": "a", labelBuild: "not mine"}, map[string]string{"note": "b"}
			p.StateSize, p.SpoolSize = resource.MustParse("50Gi"), resource.MustParse("1Gi")
		}},
		"cache": {true, func(p *PodOptions) {
			p.Cache = &corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "cache"}}
		}},
		"patched": {true, func(p *PodOptions) {
			p.Patch = []byte("metadata:\n  name: other\n  labels: {image-builder/build: other, more: label}\nspec:\n  restartPolicy: Always\n  dnsPolicy: None\n  containers:\n  - name: worker\n    env: [{name: HTTP_PROXY, value: proxy}]\n  - name: extra\n    image: extra:1\n  initContainers:\n  - name: buildkit\n    image: other:2\n")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			o := exampleOptions()
			if c.change != nil {
				c.change(&o.Pod)
			}
			pod, err := podOf(o, exampleWorkload(c.dockerfile), exampleInstall, exampleNow)
			if err != nil {
				t.Fatal(err)
			}
			got, err := yaml.Marshal(pod)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("the pod is another one (go test -update writes it anew):\n%s", d)
			}
		})
	}
}

// Test_PodOf_Secrets checks that each file of the Secret is mounted in one container only, and that
// BuildKit sees neither.
func Test_PodOf_Secrets(t *testing.T) {
	for _, profile := range []Profile{Rootless, UserNS, Privileged} {
		o := exampleOptions()
		o.Pod.Profile = profile
		pod, err := podOf(o, exampleWorkload(true), exampleInstall, exampleNow)
		if err != nil {
			t.Fatal(err)
		}
		mounted := map[string]string{}
		containers(&pod.Spec, func(c *corev1.Container) {
			for _, m := range c.VolumeMounts {
				mounted[m.Name] += c.Name + " "
			}
			if len(c.EnvFrom) > 0 {
				t.Errorf("%s has an environment from elsewhere", c.Name)
			}
		})
		if mounted[volumeJob] != "worker " || mounted[volumeProxy] != "registry-proxy " {
			t.Errorf("%s: the Secret is mounted in %v", profile, mounted)
		}
		if *pod.Spec.AutomountServiceAccountToken {
			t.Error("the pod has a token of the API")
		}
	}
}

// Test_Patch is the table of the patches that are refused.
func Test_Patch(t *testing.T) {
	for patch, says := range map[string]string{
		"spec: [":        "neither YAML nor JSON",
		"spec: {cpu: 1}": "unknown field",
		"spec: {containers: [{name: worker, $patch: delete}]}": "removes the container worker",
	} {
		o := exampleOptions()
		o.Pod.Patch = []byte(patch)
		_, err := podOf(o, exampleWorkload(true), exampleInstall, exampleNow)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", patch, err, says)
		}
	}
}
