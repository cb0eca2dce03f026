//go:build kubernetes

package chart

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/kubelet"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

const (
	release      = "image-builder"
	namespace    = "image-builder"
	builds       = "image-builder-builds"
	kubectlImage = "localhost/kubectl:1"
)

// root is the folder of this module.
const root = "../.."

// install is one release of the chart.
type install struct {
	t     *testing.T
	reg   *registrytest.Registry
	base  string // an image with a shell
	texts *texts
	image string // the image of the service, without a tag
	c     *client.Client
}

// newInstall builds the image of the service with the service, and installs the chart with the
// commands of docs/install.md.
func newInstall(t *testing.T) *install {
	t.Helper()
	s := &install{t: t, reg: registrytest.Start(t, registrytest.Options{Addr: kubelet.PlainRegistry})}
	s.reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, // the programs for the scripts of the chart and of builds
		"base64", "cat", "chmod", "cmp", "cp", "echo", "install", "mkdir", "mv", "printf", "seq", "sleep", "tr", "true", "wget"))
	s.base = s.reg.Addr + "/library/busybox:1"
	s.texts = s.readTexts()
	s.image = s.texts.words.Replace(value(s.text(installing, "helm install"), "image.repository"))
	s.buildImages(s.tag("helm install"), s.tag("helm upgrade"))
	s.prepare()
	t.Cleanup(s.explain)
	s.typed(s.text(installing, "create namespace"))
	s.typed(s.text(installing, "create secret"))
	s.helmInstall()
	s.c = s.client()
	return s
}

// builder starts a node of the service that builds in pods, before the release exists.
func (s *install) builder() *harness.Node {
	s.t.Helper()
	ns := "first"
	s.create(ns)
	return harness.Start(s.t, s.reg.Addr, harness.Config{
		"registry":     map[string]any{"allowLoopback": false, "insecureHosts": []string{s.reg.Addr}},
		"orchestrator": map[string]any{"baseImageRepository": s.image},
		"runtimes":     map[string]any{"dockerfile": "kubernetes"},
		"kubernetes": map[string]any{
			"namespace": ns, "install": "first", "kubeconfig": kube.AdminKubeconfig(), "profile": "privileged", "imagePullPolicy": "Never",
			"images": map[string]any{"worker": kubelet.WorkerImage, "buildkit": kubelet.BuildKitImage},
		},
	})
}

// buildImages builds the image of the service in pods, with a node of the service. The Dockerfile
// has the last stage of deploy/image/Dockerfile, a base with a shell, and in place of the stage
// that compiles the binary of this test.
func (s *install) buildImages(tags ...string) {
	s.t.Helper()
	shipped, err := os.ReadFile(filepath.Join(root, "deploy/image/Dockerfile"))
	if err != nil {
		s.t.Fatal(err)
	}
	_, last, ok := strings.Cut(string(shipped), "FROM docker.io/library/debian:12-slim\n")
	if !ok {
		s.t.Fatal("the last stage of deploy/image/Dockerfile is not found")
	}
	dockerfile := fmt.Sprintf(`FROM %[1]s AS build
COPY image-builder /out/image-builder
RUN mkdir -p /etc/ssl/certs /out/data && echo none > /etc/ssl/certs/ca-certificates.crt && chmod 0700 /out/data && chmod 0755 /out/image-builder
RUN /out/image-builder sbom > /out/sbom.spdx.json
FROM %[1]s
ARG BUILD
ENV BUILD=$BUILD PATH=/usr/local/bin:/bin
%[2]s`, s.base, last)
	dir := s.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Link(kube.Binary, filepath.Join(dir, "image-builder")); err != nil {
		s.t.Fatal(err)
	}
	n := s.builder()
	for _, tag := range tags {
		out := s.run(kube.Binary, "build", dir, "--server", n.GRPC, "--build-arg", "BUILD="+tag, "--tag", s.image+":"+tag, "--progress", "plain")
		s.t.Logf("the image %s:\n%s", tag, out)
	}
	n.Stop()
}

// prepare makes the prerequisites of the documentation: volumes, a namespace for builds, the image
// of kubectl.
func (s *install) prepare() {
	s.t.Helper()
	s.create(builds)
	if err := kube.ImportProgram(s.t.Context(), kubectlImage, kubelet.Program("kubectl")); err != nil {
		s.t.Fatal(err)
	}
	s.disks("disks", "1Gi", 5)
}

// disks makes n volumes of a storage class.
func (s *install) disks(class, size string, n int) {
	s.t.Helper()
	for i := range n {
		name := fmt.Sprintf("disk-%s-%d", strings.ToLower(size), i)
		dir := filepath.Join(kube.Dir, "volumes", name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			s.t.Fatal(err)
		}
		if err := os.Chown(dir, 65532, 65532); err != nil {
			s.t.Fatal(err)
		}
		if _, err := kube.Client.CoreV1().PersistentVolumes().Create(s.t.Context(), &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				StorageClassName: class, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
				PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}},
			},
		}, metav1.CreateOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// create makes a namespace and waits for its default account, which pods need.
func (s *install) create(name string) {
	s.t.Helper()
	if _, err := kube.Client.CoreV1().Namespaces().Create(s.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	testkit.Eventually(s.t, time.Minute, "the namespace has a default account", func() bool {
		_, err := kube.Client.CoreV1().ServiceAccounts(name).Get(s.t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
}

// values returns the path of the operator's values file, which overrides values-standalone.yaml.
// The cluster has one machine, no DNS and no provisioner of volumes. Builds run in pods, because
// nodes find BuildKit daemons by DNS.
func (s *install) values() string {
	s.t.Helper()
	type m = map[string]any
	raw, err := json.Marshal(m{
		"config":      m{"registry": m{"insecureHosts": []string{s.reg.Addr}}},
		"cluster":     m{"peersFrom": "endpoints", "leaderLabel": true, "zoneFrom": "none"},
		"certs":       m{"builtin": m{"kubectlImage": kubectlImage}},
		"buildkit":    m{"enabled": false},
		"kubernetes":  m{"enabled": true, "namespace": builds, "profile": "privileged", "buildkitImage": kubelet.BuildKitImage},
		"persistence": m{"size": "1Gi", "storageClass": "disks"},
		"resources":   m{"requests": m{"cpu": "50m", "memory": "64Mi"}, "limits": m{"memory": "1Gi"}},
		"goMemLimit":  "800MiB", "antiAffinity": "preferred", "zoneSpread": m{"enabled": false},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "values.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// run runs a program in the folder of the module, with the rights of an administrator, and returns
// its output.
func (s *install) run(program string, args ...string) string {
	s.t.Helper()
	out, err := s.try(root, program, args...)
	if err != nil {
		s.t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return out
}

func (s *install) try(dir, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	home := filepath.Join(kube.Dir, "home")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kube.AdminKubeconfig(), "HOME="+home, "IMAGE_BUILDER_SERVER=", "PATH="+s.texts.path)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func (s *install) kubectl(args ...string) string {
	s.t.Helper()
	return s.run(kubelet.Program("kubectl"), append([]string{"--namespace", namespace}, args...)...)
}

// operator runs a command of the service in the pod of a node, over the operator socket.
func (s *install) operator(pod string, args ...string) string {
	s.t.Helper()
	return s.kubectl(append([]string{"exec", pod, "-c", "image-builder", "--", "image-builder"}, args...)...)
}

// leader waits until one pod has the label of the leader, and returns its name.
func (s *install) leader() (name string) {
	s.t.Helper()
	testkit.Eventually(s.t, 2*time.Minute, "one pod has the label of the leader", func() bool {
		list, err := kube.Client.CoreV1().Pods(namespace).List(s.t.Context(), metav1.ListOptions{LabelSelector: "image-builder/leader=true"})
		if err != nil || len(list.Items) != 1 {
			return false
		}
		name = list.Items[0].Name
		return true
	})
	return name
}

// members waits until the cluster has the given numbers of live nodes and of voters.
func (s *install) members(nodes, voters int) {
	s.t.Helper()
	var last string
	defer func() {
		if s.t.Failed() {
			s.t.Log(last)
		}
	}()
	testkit.Eventually(s.t, 3*time.Minute, fmt.Sprintf("the cluster has %d members, and %d vote", nodes, voters), func() bool {
		out, err := s.try(root, kubelet.Program("kubectl"), "--namespace", namespace, "exec", release+"-0", "-c", "image-builder", "--", "image-builder", "cluster", "members", "-o", "json")
		if last = out; err != nil {
			return false
		}
		var res struct {
			Members []struct {
				Voter bool   `json:"voter"`
				State string `json:"state"`
			} `json:"members"`
		}
		if json.Unmarshal([]byte(out), &res) != nil || len(res.Members) != nodes {
			return false
		}
		vote := 0
		for _, m := range res.Members {
			if m.State != "alive" {
				return false
			}
			if m.Voter {
				vote++
			}
		}
		return vote == voters
	})
}

// explain logs pods and events if the test has failed.
func (s *install) explain() {
	if !s.t.Failed() {
		return
	}
	for _, args := range [][]string{
		{"get", "pods,statefulsets,endpointslices,pvc,jobs", "-A", "-o", "wide"},
		{"get", "events", "--sort-by=.lastTimestamp"},
		{"logs", "-l", "app.kubernetes.io/component=node", "-c", "image-builder", "--tail=30", "--prefix"},
		{"describe", "pods", "-l", "app.kubernetes.io/component=certs"},
		{"logs", "-l", "app.kubernetes.io/component=certs", "--all-containers", "--tail=10", "--prefix"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		cmd := exec.CommandContext(ctx, kubelet.Program("kubectl"), append([]string{"--namespace", namespace}, args...)...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+kube.AdminKubeconfig())
		out, _ := cmd.CombinedOutput()
		cancel()
		s.t.Logf("%s:\n%s", strings.Join(args, " "), out)
	}
}
