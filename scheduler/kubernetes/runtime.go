package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Name is the runtime's name in the state.
const Name = "kubernetes"

// lookEvery is the pause between questions to the API where the watch should
// have told already.
const lookEvery = 10 * time.Second

// Runtime runs every attempt in a pod. Methods may be called concurrently. It
// deletes a pod when it is told to stop it, and no other: what of a pod that has
// ended is committed, it does not know.
type Runtime struct {
	o     Options
	pods  *podWatch
	count *metrics
	stop  context.CancelFunc
}

var _ workload.Runtime = (*Runtime)(nil)

// New answers a runtime and begins to watch the pods of the install. It does
// not wait for the API. Close it.
func New(o Options) (*Runtime, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	count := newMetrics()
	pods, err := startWatch(ctx, o.Client, o.Namespace, o.Install, o.ours, func(err error) {
		count.watchErrors.Inc()
		o.Log.Warn("cannot watch the build pods, will try again", "namespace", o.Namespace, "err", err)
	})
	if err != nil {
		stop()
		return nil, fmt.Errorf("kubernetes: watch pods: %w", err)
	}
	r := &Runtime{o: o, pods: pods, count: count, stop: stop}
	if err := count.register(o.Registerer, pods); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close ends the watch. Every Run must have returned. Pods go on.
func (r *Runtime) Close() error {
	r.stop()
	r.pods.close()
	return nil
}

// Name is the runtime's name in the state.
func (r *Runtime) Name() string { return Name }

// Survives reports that pods outlive the node that started them.
func (r *Runtime) Survives() bool { return true }

// List answers the pods of the install that are there, as the API has them, but
// not those of another cluster.
func (r *Runtime) List(ctx context.Context) ([]string, error) {
	var names []string
	ours := r.o.ours()
	opts := metav1.ListOptions{LabelSelector: installSelector(r.o.Install), Limit: 500}
	for {
		list, err := r.o.Client.CoreV1().Pods(r.o.Namespace).List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("list the build pods in namespace %s: %w", r.o.Namespace, err)
		}
		for i := range list.Items {
			if p := &list.Items[i]; ours(p) {
				names = append(names, p.Name)
			}
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			slices.Sort(names)
			return names, nil
		}
	}
}

// Stop deletes the pod of that name and returns once it is gone. A pod on a
// node that is lost is not gone before the cluster says so.
func (r *Runtime) Stop(ctx context.Context, name string) error {
	sub := r.pods.subscribe(name)
	defer r.pods.unsubscribe(name, sub)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var uid string
	for try := 0; ; try++ {
		p, err := r.o.Client.CoreV1().Pods(r.o.Namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil && ctx.Err() == nil:
			r.o.Log.Warn("cannot look at a pod that is to be stopped, will try again", "pod", name, "err", err)
			if err := r.pause(ctx, try); err != nil {
				return fmt.Errorf("stop the pod %s: %w", name, err)
			}
			continue
		case err != nil:
			return fmt.Errorf("stop the pod %s: %w", name, err)
		case p.Labels[labelInstall] != r.o.Install || uid != "" && uid != string(p.UID):
			return nil // not ours
		}
		uid = string(p.UID)
		if p.DeletionTimestamp == nil {
			if err := r.remove(ctx, p); err != nil {
				r.o.Log.Warn("cannot delete a pod, will try again", "pod", name, "err", err)
				if err := r.pause(ctx, try); err != nil {
					return fmt.Errorf("stop the pod %s: %w", name, err)
				}
				continue
			}
		}
		if err := awaitDeleted(ctx, sub, uid, tick.C); err != nil {
			return fmt.Errorf("stop the pod %s: %w", name, err)
		}
		try = 0
	}
}

// awaitDeleted returns when it is worth looking at the API again.
func awaitDeleted(ctx context.Context, sub *podSub, uid string, tick <-chan time.Time) error {
	for {
		if _, deleted := sub.get(uid); deleted {
			return nil
		}
		select {
		case <-sub.news:
		case <-tick:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// remove deletes exactly this pod.
func (r *Runtime) remove(ctx context.Context, p *corev1.Pod) error {
	err := r.o.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it is gone, or another one has its name
	}
	return err
}

// maxPause bounds the pauses between tries.
const maxPause = 10 * time.Second

// pause waits before try number n+1.
func (r *Runtime) pause(ctx context.Context, n int) error {
	d := min(r.o.retryBase<<min(n, 10), maxPause)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
