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

// Name is the name of the runtime in the replicated state.
const Name = "kubernetes"

// pollInterval is the time between two reads from the API, in case the watch has missed a change.
const pollInterval = 10 * time.Second

// Runtime runs every attempt in a pod. Methods may be called concurrently. Only Stop deletes pods:
// the runtime does not know which results of an ended pod are committed.
type Runtime struct {
	opts    Options
	pods    *podWatch
	metrics *metrics
	stop    context.CancelFunc
}

var _ workload.Runtime = (*Runtime)(nil)

// New returns a runtime and starts the watch of the install's pods. It does not wait for the API.
// The caller closes the runtime.
func New(o Options) (*Runtime, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	m := newMetrics()
	pods, err := startWatch(ctx, o.Client, o.Namespace, o.Install, o.ours, func(err error) {
		m.watchErrors.Inc()
		o.Log.Warn("cannot watch the build pods, will try again", "namespace", o.Namespace, "err", err)
	})
	if err != nil {
		stop()
		return nil, fmt.Errorf("kubernetes: watch pods: %w", err)
	}
	r := &Runtime{opts: o, pods: pods, metrics: m, stop: stop}
	if err := m.register(o.Registerer, pods); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close ends the watch. All calls of Run must have returned. Pods continue to run.
func (r *Runtime) Close() error {
	r.stop()
	r.pods.close()
	return nil
}

// Name returns the name of the runtime in the replicated state.
func (r *Runtime) Name() string { return Name }

// Survives returns true: pods outlive the node that created them.
func (r *Runtime) Survives() bool { return true }

// List returns the names of the pods of the install that the API has, except those of another
// cluster.
func (r *Runtime) List(ctx context.Context) ([]string, error) {
	var names []string
	ours := r.opts.ours()
	opts := metav1.ListOptions{LabelSelector: installSelector(r.opts.Install), Limit: 500}
	for {
		list, err := r.opts.Client.CoreV1().Pods(r.opts.Namespace).List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("list the build pods in namespace %s: %w", r.opts.Namespace, err)
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

// Stop deletes the pod of that name and returns once it is gone. It retries until ctx ends. A pod
// on a lost node is not gone before the cluster has removed it.
func (r *Runtime) Stop(ctx context.Context, name string) error {
	sub := r.pods.subscribe(name)
	defer r.pods.unsubscribe(name, sub)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var uid string
	for try := 0; ; try++ {
		p, err := r.opts.Client.CoreV1().Pods(r.opts.Namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil && ctx.Err() == nil:
			r.opts.Log.Warn("cannot read a pod that is to be stopped, will try again", "pod", name, "err", err)
			if err := r.pause(ctx, try); err != nil {
				return fmt.Errorf("stop the pod %s: %w", name, err)
			}
			continue
		case err != nil:
			return fmt.Errorf("stop the pod %s: %w", name, err)
		case p.Labels[labelInstall] != r.opts.Install || uid != "" && uid != string(p.UID):
			return nil // a pod of another install, or a new one of the same name
		}
		uid = string(p.UID)
		if p.DeletionTimestamp == nil {
			if err := r.remove(ctx, p); err != nil {
				r.opts.Log.Warn("cannot delete a pod, will try again", "pod", name, "err", err)
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

// awaitDeleted blocks until the pod is deleted or the tick fires. The caller then reads from the
// API again.
func awaitDeleted(ctx context.Context, sub *podSub, uid string, tick <-chan time.Time) error {
	for {
		if _, deleted := sub.get(uid); deleted {
			return nil
		}
		select {
		case <-sub.changed:
		case <-tick:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// remove deletes exactly this pod, by its UID.
func (r *Runtime) remove(ctx context.Context, p *corev1.Pod) error {
	err := r.opts.Client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it is gone, or another pod has its name
	}
	return err
}

// maxPause limits the pause between two retries.
const maxPause = 10 * time.Second

// pause waits before retry number n+1. The pauses double up to maxPause.
func (r *Runtime) pause(ctx context.Context, n int) error {
	d := min(r.opts.retryBase<<min(n, 10), maxPause)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
