package kubernetes

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
