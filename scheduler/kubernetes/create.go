package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

// ensurePod creates or adopts the pod of the workload. stored is the number of bytes of its output
// that the log has.
func (r *Runtime) ensurePod(ctx context.Context, w *workload.Workload, stored int64) (*corev1.Pod, error) {
	for {
		pod, err := r.getPod(ctx, w.Name())
		if err != nil {
			return nil, err
		}
		if pod != nil {
			return r.adopt(ctx, pod, w)
		}
		if stored > 0 || w.Started {
			// A new pod would build again from the start, and its output would differ from what is
			// stored.
			return nil, infra("the pod %s is gone, and its build is lost: the pod was deleted, or its node was lost", w.Name())
		}
		pod, err = r.createPod(ctx, w)
		if !apierrors.IsAlreadyExists(err) {
			return pod, err
		}
	}
}

// getPod returns the pod that the API has, or nil if there is none.
func (r *Runtime) getPod(ctx context.Context, name string) (*corev1.Pod, error) {
	var pod *corev1.Pod
	err := r.withRetries(ctx, "read the pod "+name, func() (err error) {
		pod, err = r.opts.Client.CoreV1().Pods(r.opts.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			pod, err = nil, nil
		}
		return err
	})
	return pod, err
}

func (r *Runtime) createPod(ctx context.Context, w *workload.Workload) (*corev1.Pod, error) {
	if err := r.awaitRoom(ctx, w.Name()); err != nil {
		return nil, err
	}
	install, err := r.ensureInstall(ctx)
	if err != nil {
		return nil, err
	}
	pod, err := podOf(&r.opts, w, install, time.Now())
	if err != nil {
		return nil, infra("%v", err)
	}
	var created *corev1.Pod
	err = r.withRetries(ctx, "create the pod "+pod.Name, func() (err error) {
		created, err = r.opts.Client.CoreV1().Pods(r.opts.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return nil, err
	}
	r.metrics.created.Inc()
	r.opts.Log.Info("created a build pod", "pod", pod.Name, "build", w.BuildID, "attempt", w.Attempt, "epoch", w.Epoch)
	return created, nil
}

// adopt makes this node the owner of the pod. It returns builds.ErrFenced if the pod has a later
// owner.
func (r *Runtime) adopt(ctx context.Context, pod *corev1.Pod, w *workload.Workload) (*corev1.Pod, error) {
	switch {
	case pod.Labels[labelInstall] != r.opts.Install:
		return nil, infra("the namespace %s has a pod %s that belongs to another install: remove it, or use another namespace", pod.Namespace, pod.Name)
	case epochOf(pod) > w.Epoch:
		return nil, fmt.Errorf("the pod %s belongs to epoch %d, not %d: %w", pod.Name, epochOf(pod), w.Epoch, builds.ErrFenced)
	case epochOf(pod) == w.Epoch && pod.Labels[labelOwner] == asLabel(r.opts.Node):
		return pod, nil
	}
	// The labels are information for people and for former owners; the build does not depend on
	// them.
	patched, err := r.opts.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, ownerPatch(pod, &r.opts, w.Epoch), metav1.PatchOptions{})
	if err != nil {
		r.opts.Log.Warn("cannot label an adopted pod", "pod", pod.Name, "err", err)
		return pod, nil
	}
	r.metrics.adopted.Inc()
	r.opts.Log.Info("adopted a build pod", "pod", pod.Name, "build", w.BuildID, "attempt", w.Attempt, "epoch", w.Epoch)
	return patched, nil
}

// ensureInstall finds or creates the ConfigMap that owns all pods of the install.
func (r *Runtime) ensureInstall(ctx context.Context) (metav1.OwnerReference, error) {
	maps := r.opts.Client.CoreV1().ConfigMaps(r.opts.Namespace)
	want := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: installName(r.opts.Install), Namespace: r.opts.Namespace, Labels: map[string]string{labelInstall: r.opts.Install}},
		Data:       map[string]string{"README": "Owns the build pods of this image-builder install: deleting it deletes them.\n"},
	}
	var got *corev1.ConfigMap
	err := r.withRetries(ctx, "create the ConfigMap "+want.Name, func() (err error) {
		if got, err = maps.Get(ctx, want.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return err
		}
		if got, err = maps.Create(ctx, want, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			got, err = maps.Get(ctx, want.Name, metav1.GetOptions{})
		}
		return err
	})
	if err != nil {
		return metav1.OwnerReference{}, err
	}
	return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: got.Name, UID: got.UID}, nil
}

func installName(install string) string {
	return "image-builder-" + strings.ToLower(strings.ReplaceAll(install, "_", "-")) + "-builds"
}

// ungate removes the scheduling gate of the pod. Its Secret must exist.
func (r *Runtime) ungate(ctx context.Context, pod *corev1.Pod) error {
	what := "let the pod " + pod.Name + " be scheduled"
	return r.withRetries(ctx, what, func() error {
		_, err := r.opts.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, ungatePatch(pod), metav1.PatchOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
			return nil // it is gone, or another pod has its name: the watch shows which
		}
		return err
	})
}

// ensureSecret reads the pod's Secret, or creates it if it does not exist. It requests credentials
// only in the latter case.
func (r *Runtime) ensureSecret(ctx context.Context, w *workload.Workload, pod *corev1.Pod) (secret *corev1.Secret, job *podapi.Job, err error) {
	secrets := r.opts.Client.CoreV1().Secrets(pod.Namespace)
	var broken error // an error that a retry does not solve
	err = r.withRetries(ctx, "create the Secret "+pod.Name, func() error {
		broken = nil
		there, err := secrets.Get(ctx, pod.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			secret, job, broken = r.secretOf(ctx, w, pod)
			if errors.As(broken, new(*credentialsError)) {
				return broken
			}
			if broken != nil {
				return nil
			}
			if secret, err = secrets.Create(ctx, secret, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
				return retryable(errors.New("another owner created it meanwhile"))
			}
			return err
		}
		if err != nil {
			return err
		}
		if !ownedBy(there, pod) {
			// It belongs to a former pod of the same name.
			return retryable(errors.Join(errors.New("it belongs to a former pod"), secrets.Delete(ctx, there.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(there.UID))})))
		}
		secret = there
		job, err = decodeJob(there)
		return err
	})
	if err == nil {
		err = broken
	}
	return secret, job, err
}

func ownedBy(s *corev1.Secret, pod *corev1.Pod) bool {
	for _, o := range s.OwnerReferences {
		if o.UID == pod.UID {
			return true
		}
	}
	return false
}

// retryableError marks an error after which withRetries repeats the operation.
type retryableError struct{ error }

func (e retryableError) Unwrap() error { return e.error }

func retryable(err error) error { return retryableError{err} }

// withRetries repeats op while the API is unavailable or a quota is full. AlreadyExists is returned
// unchanged.
func (r *Runtime) withRetries(ctx context.Context, what string, op func() error) error {
	since := map[string]time.Time{}
	for try := 0; ; try++ {
		err := op()
		if err == nil || apierrors.IsAlreadyExists(err) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
		p, retry := problem{}, true
		if !errors.As(err, new(retryableError)) {
			p, retry = createProblem(err, what, &r.opts)
		}
		if !retry {
			return p.failure
		}
		if since[p.kind].IsZero() {
			since[p.kind] = time.Now()
		}
		if p.limit > 0 && time.Since(since[p.kind]) >= p.limit {
			return p.failure
		}
		r.metrics.retries.Inc()
		r.opts.Log.Warn("a Kubernetes request for a build pod failed, will try again", "what", what, "err", err)
		if err := r.pause(ctx, try); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// awaitRoom waits while the install has MaxPods pods, and then takes a place for the new one. The
// pods of this node get their places in the order in which they began to wait.
func (r *Runtime) awaitRoom(ctx context.Context, name string) error {
	if r.opts.MaxPods == 0 {
		return nil
	}
	for try := 0; !r.pods.reserve(name, r.opts.MaxPods); try++ {
		if try == 0 {
			r.opts.Log.Info("waiting for another build pod to end", "pod", name, "max", r.opts.MaxPods)
		}
		if err := r.pause(ctx, 2); err != nil {
			r.pods.leave(name)
			return fmt.Errorf("wait for another build pod to end: %w", err)
		}
	}
	return nil
}
