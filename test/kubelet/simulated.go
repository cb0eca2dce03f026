//go:build kubernetes

package kubelet

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// simulatedNodes is the number of nodes. Each has room for a thousand pods.
	simulatedNodes = 10
	simulatedPods  = "10.128.0.0/12"
	// auditPolicy records each request of the service accounts of tests when it arrives.
	auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [ResponseStarted, ResponseComplete]
rules:
- {level: None, userGroups: ["system:serviceaccounts:kube-system"]}
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
`
	// kwokConfig precedes the stages in the configuration of kwok.
	kwokConfig = `apiVersion: config.kwok.x-k8s.io/v1alpha1
kind: KwokConfiguration
options:
  cidr: ` + simulatedPods + `
  manageAllNodes: false
  manageNodesWithLabelSelector: type=kwok
  nodePlayStageParallelism: 4
  podPlayStageParallelism: 16
  podsOnNodeSyncParallelism: 4
---
`
)

// AuditLog returns the path of the audit log of a simulated cluster. It has one event of
// audit.k8s.io/v1 per line, for each request of a service account when it arrives.
func (c *Cluster) AuditLog() string { return filepath.Join(c.Dir, "audit.log") }

// bootSimulated boots without containerd and kubelet.
func (c *Cluster) bootSimulated(ctx context.Context, stages []byte) error {
	if err := c.prepare(); err != nil {
		return err
	}
	// Connections to the addresses of pods are refused at once.
	if out, err := exec.Command("ip", "route", "add", "local", simulatedPods, "dev", "lo").CombinedOutput(); err != nil {
		return fmt.Errorf("route the addresses of pods: %w: %s", err, out)
	}
	for file, text := range map[string]string{"audit.yaml": auditPolicy, "kwok.yaml": kwokConfig + string(stages)} {
		if err := os.WriteFile(filepath.Join(c.Dir, file), []byte(text), 0o600); err != nil {
			return err
		}
	}
	c.programs()
	c.Containerd, c.Kubelet = nil, nil
	c.APIServer.with("--audit-policy-file="+filepath.Join(c.Dir, "audit.yaml"), "--audit-log-path="+c.AuditLog())
	// Nodes have no heartbeats: those of kwok fail forever after one lost response.
	c.ControllerManager.with("--node-monitor-grace-period=24h")
	c.Scheduler.with("--kube-api-qps=500", "--kube-api-burst=1000")
	c.Kwok = newProcess(c.Dir, "kwok", programFile("kwok"), "--kubeconfig="+c.kubeconfig("admin"), "--config="+filepath.Join(c.Dir, "kwok.yaml"),
		"--node-lease-duration-seconds=0")
	for _, p := range []*Process{c.Etcd, c.APIServer} {
		if err := p.Start(); err != nil {
			return err
		}
	}
	if err := c.bootControl(ctx); err != nil {
		return err
	}
	for i := range simulatedNodes {
		if err := c.addNode(ctx, fmt.Sprintf("kwok-%d", i)); err != nil {
			return err
		}
	}
	if err := c.Kwok.Start(); err != nil {
		return err
	}
	return c.await(ctx, "all simulated nodes are ready", c.simulatedReady)
}

func (c *Cluster) addNode(ctx context.Context, name string) error {
	room := corev1.ResourceList{
		corev1.ResourcePods: resource.MustParse("1000"), corev1.ResourceCPU: resource.MustParse("10000"),
		corev1.ResourceMemory: resource.MustParse("100Ti"), corev1.ResourceEphemeralStorage: resource.MustParse("1000Ti"),
	}
	_, err := c.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"type": "kwok", corev1.LabelHostname: name}},
		Status:     corev1.NodeStatus{Capacity: room, Allocatable: room},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make the simulated node %s: %w", name, err)
	}
	return nil
}

func (c *Cluster) simulatedReady(ctx context.Context) error {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "type=kwok"})
	if err != nil {
		return err
	}
	var not []string
	for _, n := range nodes.Items {
		ready := false
		for _, cond := range n.Status.Conditions {
			ready = ready || cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue
		}
		if !ready || len(n.Spec.Taints) > 0 {
			not = append(not, n.Name)
		}
	}
	if len(not) > 0 || len(nodes.Items) != simulatedNodes {
		return fmt.Errorf("%d nodes, not ready: %s", len(nodes.Items), strings.Join(not, ", "))
	}
	return nil
}
