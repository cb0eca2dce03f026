//go:build kubernetes

package kubernetes_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// shipped returns the rules of the Role in deploy/kubernetes.
func shipped(t *testing.T) []rbacv1.PolicyRule {
	t.Helper()
	raw, err := os.ReadFile("../../deploy/kubernetes/image-builder-pods.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range bytes.Split(raw, []byte("\n---\n")) {
		var r rbacv1.Role
		if err := yaml.Unmarshal(doc, &r); err == nil && r.Kind == "Role" && r.Name == "image-builder-builds" {
			return r.Rules
		}
	}
	t.Fatal("deploy/kubernetes ships no Role image-builder-builds")
	return nil
}

// Test_API_Rights does everything that a node does with the rights in deploy/kubernetes, and checks
// that something fails without each single verb.
func Test_API_Rights(t *testing.T) {
	a := startAPI(t)
	rules := shipped(t)
	if missing := a.exercise(t, "all", rules); missing != "" {
		t.Fatalf("with the rights as shipped: %s", missing)
	}
	for i, rule := range rules {
		for j, verb := range rule.Verbs {
			name := fmt.Sprintf("%s-%s", rule.Resources[0], verb)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				less := slices.Clone(rules)
				less[i].Verbs = slices.Delete(slices.Clone(rule.Verbs), j, j+1)
				missing := a.exercise(t, name, less)
				if missing == "" {
					t.Errorf("nothing needs to %s %s: ship less", verb, rule.Resources[0])
				}
				t.Log("without it: " + missing)
			})
		}
	}
}

// account returns a client with only these rights.
func (a *api) account(t *testing.T, name string, rules []rbacv1.PolicyRule) client.Interface {
	t.Helper()
	user := "system:serviceaccount:image-builder:" + name
	ctx := t.Context()
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	if _, err := a.client.RbacV1().Roles(namespace).Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "image-builder", Name: name}},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
	}
	if _, err := a.client.RbacV1().RoleBindings(namespace).Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the rights are in force", func() bool {
		for _, r := range rules {
			for _, verb := range r.Verbs {
				review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
					User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: verb, Resource: r.Resources[0], Group: r.APIGroups[0]},
				}}
				res, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
				if err != nil || !res.Status.Allowed {
					return false
				}
			}
		}
		return true
	})
	config := rest.CopyConfig(a.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	c, err := client.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// exercise runs builds through all states. It returns the name of the first effect that does not
// occur, or "" if all do.
func (a *api) exercise(t *testing.T, name string, rules []rbacv1.PolicyRule) (missing string) {
	t.Helper()
	creds := &changing{credentials: credentials{"reg.example"}}
	set := func(s string) { creds.now.Store(&s) }
	set("first")
	limited := newClusterOn(t, a.account(t, name, rules))
	node := func(n string) *kubernetes.Runtime {
		return newRuntime(t, limited, n, "", func(o *kubernetes.Options) {
			o.Install, o.Credentials, o.RenewInterval = name, creds, 100*time.Millisecond
			kubernetes.FastRetries(o)
		})
	}
	w := copyOf(&registrytest.Registry{Addr: "reg.example"}, "rights-"+name, "sha256:"+strings.Repeat("a", 64))
	pod := func() *corev1.Pod {
		p, err := a.client.CoreV1().Pods(namespace).Get(t.Context(), w.Name(), metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return p
	}
	secret := func() *corev1.Secret {
		s, err := a.client.CoreV1().Secrets(namespace).Get(t.Context(), w.Name(), metav1.GetOptions{})
		if err != nil {
			return &corev1.Secret{}
		}
		return s
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	// comes waits for an effect while a build is followed.
	comes := func(x *run, what string, is func() bool) bool {
		limit, tick := time.After(20*time.Second), time.NewTicker(20*time.Millisecond)
		defer tick.Stop()
		for !is() {
			select {
			case <-tick.C:
				continue
			case <-x.done:
				missing = fmt.Sprintf("%s: %v", what, x.err)
			case <-limit:
				missing = what
			}
			return false
		}
		return true
	}
	follow := func(r *kubernetes.Runtime, f func(x *run) bool) bool {
		one, stop := context.WithCancel(ctx)
		x := start(one, r, w, newSink())
		ok := f(x)
		stop()
		<-x.done
		return ok
	}

	if !follow(node("node-a"), func(x *run) bool {
		return comes(x, "a pod may be scheduled", func() bool { p := pod(); return p != nil && len(p.Spec.SchedulingGates) == 0 })
	}) {
		return missing
	}
	w.Epoch++
	b := node("node-b")
	if !follow(b, func(x *run) bool {
		set("second")
		return comes(x, "another node adopts the pod", func() bool { return pod().Labels["image-builder/owner"] == "node-b" }) &&
			comes(x, "its credentials are renewed", func() bool { return bytes.Contains(secret().Data["proxy.json"], []byte("second")) })
	}) {
		return missing
	}
	if names, err := b.List(ctx); err != nil || len(names) != 1 {
		return fmt.Sprintf("what runs is listed: %v, %v", names, err)
	}
	stop, end := context.WithTimeout(ctx, 5*time.Second)
	defer end()
	if err := b.Stop(stop, w.Name()); err != nil || pod() != nil {
		return fmt.Sprintf("a pod is stopped: %v", err)
	}
	// There is no garbage collection here: the next pod of the name finds the Secret of the former
	// pod.
	old := secret().UID
	if !follow(b, func(x *run) bool {
		return comes(x, "the Secret of a former pod is replaced", func() bool { return secret().UID != "" && secret().UID != old })
	}) {
		return missing
	}
	if err := b.Trouble(); err != nil {
		return fmt.Sprintf("the watch goes on: %v", err)
	}
	return ""
}
