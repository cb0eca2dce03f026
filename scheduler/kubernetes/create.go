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

// ensurePod creates the workload's pod, or adopts it. stored is how much of its
// output the log has.
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
			// Another pod would do all again, and say other things from the
			// beginning on.
			return nil, infra("the pod %s is gone, and with it what it built: it was deleted, or its node was lost", w.Name())
		}
		pod, err = r.createPod(ctx, w)
		if !apierrors.IsAlreadyExists(err) {
			return pod, err
		}
	}
}

// getPod answers the pod as the API has it, nil if there is none.
func (r *Runtime) getPod(ctx context.Context, name string) (*corev1.Pod, error) {
	var pod *corev1.Pod
	err := r.insist(ctx, "look for the pod "+name, func() (err error) {
		pod, err = r.o.Client.CoreV1().Pods(r.o.Namespace).Get(ctx, name, metav1.GetOptions{})
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
	pod, err := podOf(&r.o, w, install, time.Now())
	if err != nil {
		return nil, infra("%v", err)
	}
	var created *corev1.Pod
	err = r.insist(ctx, "create the pod "+pod.Name, func() (err error) {
		created, err = r.o.Client.CoreV1().Pods(r.o.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return nil, err
	}
	r.count.created.Inc()
	r.o.Log.Info("created a build pod", "pod", pod.Name, "build", w.BuildID, "attempt", w.Attempt, "epoch", w.Epoch)
	return created, nil
}

// adopt makes this node the owner of a pod, unless a later one is.
func (r *Runtime) adopt(ctx context.Context, pod *corev1.Pod, w *workload.Workload) (*corev1.Pod, error) {
	switch {
	case pod.Labels[labelInstall] != r.o.Install:
		return nil, infra("the namespace %s has a pod %s that is not of this install: remove it, or use another namespace", pod.Namespace, pod.Name)
	case epochOf(pod) > w.Epoch:
		return nil, fmt.Errorf("the pod %s follows epoch %d, not %d: %w", pod.Name, epochOf(pod), w.Epoch, builds.ErrFenced)
	case epochOf(pod) == w.Epoch && pod.Labels[labelOwner] == asLabel(r.o.Node):
		return pod, nil
	}
	// The labels are for people and for former owners; the build goes on
	// without them.
	patched, err := r.o.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, ownerPatch(pod, &r.o, w.Epoch), metav1.PatchOptions{})
	if err != nil {
		r.o.Log.Warn("cannot label an adopted pod", "pod", pod.Name, "err", err)
		return pod, nil
	}
	r.count.adopted.Inc()
	r.o.Log.Info("adopted a build pod", "pod", pod.Name, "build", w.BuildID, "attempt", w.Attempt, "epoch", w.Epoch)
	return patched, nil
}

// ensureInstall finds or makes the object that owns all pods of the install.
func (r *Runtime) ensureInstall(ctx context.Context) (metav1.OwnerReference, error) {
	maps := r.o.Client.CoreV1().ConfigMaps(r.o.Namespace)
	want := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: installName(r.o.Install), Namespace: r.o.Namespace, Labels: map[string]string{labelInstall: r.o.Install}},
		Data:       map[string]string{"README": "Owns the build pods of this image-builder install: deleting it deletes them.\n"},
	}
	var got *corev1.ConfigMap
	err := r.insist(ctx, "create the ConfigMap "+want.Name, func() (err error) {
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

// ungate lets the scheduler see the pod: its Secret is there.
func (r *Runtime) ungate(ctx context.Context, pod *corev1.Pod) error {
	what := "let the pod " + pod.Name + " be scheduled"
	return r.insist(ctx, what, func() error {
		_, err := r.o.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, ungatePatch(pod), metav1.PatchOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
			return nil // it is gone, or another one has its name: the watch tells
		}
		return err
	})
}

// ensureSecret reads the Secret that the pod's creator made, or creates it: only
// for that credentials are asked for.
func (r *Runtime) ensureSecret(ctx context.Context, w *workload.Workload, pod *corev1.Pod) (secret *corev1.Secret, job *podapi.Job, err error) {
	secrets := r.o.Client.CoreV1().Secrets(pod.Namespace)
	var broken error // what trying again does not mend
	err = r.insist(ctx, "create the Secret "+pod.Name, func() error {
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
				return again(errors.New("another owner made it meanwhile"))
			}
			return err
		}
		if err != nil {
			return err
		}
		if !ownedBy(there, pod) {
			// Of a pod of that name that is no more.
			return again(errors.Join(errors.New("it belongs to a former pod"), secrets.Delete(ctx, there.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(there.UID))})))
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

// againError is an error after which the operation is tried again.
type againError struct{ error }

func (e againError) Unwrap() error { return e.error }

func again(err error) error { return againError{err} }

// insist repeats an operation while the API is away, or says that there is no
// room yet. AlreadyExists is returned as it is.
func (r *Runtime) insist(ctx context.Context, what string, op func() error) error {
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
		if !errors.As(err, new(againError)) {
			p, retry = refusedCreate(err, what, &r.o)
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
		r.count.retries.Inc()
		r.o.Log.Warn("cannot do something yet that a build pod needs, will try again", "what", what, "err", err)
		if err := r.pause(ctx, try); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// awaitRoom waits while the install has its maximum of pods, and takes a place.
func (r *Runtime) awaitRoom(ctx context.Context, name string) error {
	if r.o.MaxPods == 0 {
		return nil
	}
	for try := 0; !r.pods.reserve(name, r.o.MaxPods); try++ {
		if try == 0 {
			r.o.Log.Info("waits for another build pod to end", "pod", name, "max", r.o.MaxPods)
		}
		if err := r.pause(ctx, 2); err != nil {
			return fmt.Errorf("wait for another build pod to end: %w", err)
		}
	}
	return nil
}
