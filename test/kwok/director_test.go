//go:build kubernetes

package kwok_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	// lostFor is how long the pod of a lost node exists after its deletion.
	lostFor = time.Second
	// touchAfter is the delay after which a pod that does not follow its script gets an annotation.
	// kwok loses a write if the API server dies in the middle of the request, and the annotation
	// makes kwok repeat it. A kubelet would repeat it by itself.
	touchAfter = 10 * time.Second
)

// director assigns a script to each pod. It also does what no kubelet does: it deletes pods like a
// user, the scheduler or a controller.
type director struct {
	namespace string
	pods      corelisters.PodNamespaceLister
	queue     workqueue.TypedRateLimitingInterface[string]

	mu      sync.Mutex
	scripts map[string]script // by build
}

func newDirector(t *testing.T, namespace string) *director {
	t.Helper()
	f := informers.NewSharedInformerFactoryWithOptions(kube.Client, 0, informers.WithNamespace(namespace))
	d := &director{
		namespace: namespace, pods: f.Core().V1().Pods().Lister().Pods(namespace), scripts: map[string]script{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](100*time.Millisecond, 2*time.Second)),
	}
	add := func(obj any) {
		if p, ok := obj.(*corev1.Pod); ok {
			d.queue.Add(p.Name)
		}
	}
	if _, err := f.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, obj any) { add(obj) }}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	f.Start(ctx.Done())
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() { d.work(ctx, t) })
	}
	t.Cleanup(func() {
		stop()
		d.queue.ShutDown()
		workers.Wait()
		f.Shutdown()
	})
	f.WaitForCacheSync(ctx.Done())
	return d
}

// assign sets the script of a build.
func (d *director) assign(build string, s script) {
	d.mu.Lock()
	d.scripts[build] = s
	d.mu.Unlock()
	d.queue.Add(workload.Name(build, 1)) // the pod may exist already
}

func (d *director) work(ctx context.Context, t *testing.T) {
	for {
		name, shut := d.queue.Get()
		if shut {
			return
		}
		again, err := d.reconcile(ctx, name)
		switch {
		case err != nil && ctx.Err() == nil:
			d.queue.AddRateLimited(name)
			// Ignore the error for another pod with the same name: the ledger reports such pods.
			if apierrors.IsInvalid(err) && !strings.Contains(err.Error(), "metadata.uid") {
				t.Errorf("reconcile %s: %v", name, err)
			}
		case again > 0:
			d.queue.Forget(name)
			d.queue.AddAfter(name, again)
		default:
			d.queue.Forget(name)
		}
		d.queue.Done(name)
	}
}

// reconcile takes the next action for a pod. It returns the delay until the next call, or 0 to wait
// for a change of the pod.
func (d *director) reconcile(ctx context.Context, name string) (again time.Duration, err error) {
	p, err := d.pods.Get(name)
	if err != nil {
		return 0, nil // the pod is gone, or not in the cache yet
	}
	build, attempt, ok := workload.ParseName(name)
	if !ok {
		return 0, fmt.Errorf("%s is not a pod of this service", name)
	}
	d.mu.Lock()
	s, known := d.scripts[build]
	d.mu.Unlock()
	if !known {
		return 0, nil // assign adds the pod to the queue again
	}
	if p.Annotations[annotation+"ending"] == "" {
		// check reports too many attempts.
		e := s.attempts[min(int(attempt), len(s.attempts))-1]
		return touchAfter + s.after, d.annotate(ctx, p, e.annotations(s.after))
	}
	kind := p.Annotations[annotation+"ending"]
	switch ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed; {
	case p.DeletionTimestamp != nil && kind != "lost":
		return d.touch(ctx, p, 0) // the kubelet must act
	case ended:
		return 0, nil
	case p.Status.Phase != corev1.PodRunning || kind != "deleted" && kind != "lost" && kind != "preempted":
		return d.touch(ctx, p, s.after)
	}
	if wait := s.after - time.Since(p.Status.StartTime.Time); wait > 0 {
		return wait, nil
	}
	return d.remove(ctx, p, kind)
}

// touch annotates a pod that is late by its script; see touchAfter.
func (d *director) touch(ctx context.Context, p *corev1.Pod, after time.Duration) (time.Duration, error) {
	late := touchAfter + after
	if p.Spec.NodeName == "" {
		return late, nil
	}
	since := p.CreationTimestamp.Time
	if p.Status.StartTime != nil {
		since = p.Status.StartTime.Time
	}
	if n, err := strconv.ParseInt(p.Annotations[annotation+"touched"], 10, 64); err == nil {
		since = time.Unix(n, 0)
	}
	if wait := late - time.Since(since); wait > 0 {
		return wait, nil
	}
	return late, d.annotate(ctx, p, map[string]string{annotation + "touched": strconv.FormatInt(time.Now().Unix(), 10)})
}

// remove takes the next step to delete a pod, in the way of the user, scheduler or controller that
// deletes it.
func (d *director) remove(ctx context.Context, p *corev1.Pod, kind string) (again time.Duration, err error) {
	api := kube.Client.CoreV1().Pods(d.namespace)
	opts := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))}
	switch {
	case kind != "deleted" && !disrupted(p):
		reason := "DeletionByTaintManager"
		if kind == "preempted" {
			reason = corev1.PodReasonPreemptionByScheduler
		}
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"status":{"conditions":[{"type":"DisruptionTarget","status":"True","reason":%q,"lastTransitionTime":%q}]}}`,
			p.UID, reason, time.Now().UTC().Format(time.RFC3339))
		_, err = api.Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		again = touchAfter // the watch reports the change earlier
	case p.DeletionTimestamp == nil:
		err = api.Delete(ctx, p.Name, opts)
		again = touchAfter
	default: // a pod of a lost node
		if wait := lostFor - time.Since(p.DeletionTimestamp.Time); wait > 0 {
			return wait, nil
		}
		// The garbage collector of pods does this once the node is out of service.
		opts.GracePeriodSeconds = new(int64)
		err = api.Delete(ctx, p.Name, opts)
		again = touchAfter
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		err = nil
	}
	return again, err
}

func disrupted(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget {
			return true
		}
	}
	return false
}

func (d *director) annotate(ctx context.Context, p *corev1.Pod, a map[string]string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID, "annotations": a}})
	if err != nil {
		return err
	}
	_, err = kube.Client.CoreV1().Pods(d.namespace).Patch(ctx, p.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
