//go:build kubernetes

package kubelet

import (
	"bytes"
	"context"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// shippedRole is the Role of the runtime in deploy/kubernetes. These files are the rendered chart
// (tools/deploytest compares them).
const shippedRole = "image-builder-builds"

// shippedRights returns the rules of shippedRole. Nodes of tests have these rights and no others.
func shippedRights() ([]rbacv1.PolicyRule, error) {
	file := testkit.File("deploy/kubernetes/image-builder-pods.yaml")
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the shipped rights: %w", err)
	}
	for doc := range bytes.SplitSeq(raw, []byte("\n---\n")) {
		var r rbacv1.Role
		if err := yaml.Unmarshal(doc, &r); err == nil && r.Kind == "Role" && r.Name == shippedRole {
			return r.Rules, nil
		}
	}
	return nil, fmt.Errorf("%s has no Role %s", file, shippedRole)
}

// Account makes a namespace for build pods, and a service account with the rights of
// deploy/kubernetes in it. It returns the path of its kubeconfig file. It waits until the namespace
// has the default account, which pods need.
func (c *Cluster) Account(ctx context.Context, namespace string) (kubeconfig string, err error) {
	rules, err := shippedRights()
	if err != nil {
		return "", err
	}
	meta := metav1.ObjectMeta{Name: "image-builder"}
	for _, create := range []func() error{
		func() error {
			_, err := c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := c.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := c.Client.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: rules}, metav1.CreateOptions{})
			return err
		},
		func() error {
			_, err := c.Client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
				ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name},
				Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: meta.Name, Namespace: namespace}},
			}, metav1.CreateOptions{})
			return err
		},
	} {
		if err := create(); err != nil {
			return "", fmt.Errorf("make the namespace %s and its account: %w", namespace, err)
		}
	}
	if err := c.await(ctx, "the namespace has a default account", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	}); err != nil {
		return "", err
	}
	return c.Kubeconfig(ctx, namespace, meta.Name)
}
