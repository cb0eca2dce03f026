package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/tracing"
)

// deadlineGrace is the time from the deadline of a build until the owner ends the build. The worker
// ends it right at the deadline, because its message is better.
const deadlineGrace = 20 * time.Second

var errDeadline = errors.New("deadline of the build")

// Run creates or adopts the pod of the workload, and follows it to its end. When ctx ends, the pod
// continues.
//
// Run deletes no pod. It cannot know whether this node is still the owner, because the node may
// have been paused. The caller knows, and stops a pod that is given up but may still run. A pod
// that has ended, or cannot start, stays until its end is committed, so that the next owner finds
// it.
func (r *Runtime) Run(ctx context.Context, w *workload.Workload, sink workload.Sink) (workload.Outcome, error) {
	limited := ctx
	if !w.Deadline.IsZero() {
		var cancel context.CancelFunc
		limited, cancel = context.WithDeadlineCause(ctx, w.Deadline.Add(deadlineGrace), errDeadline)
		defer cancel()
	}
	_, starting := tracing.Start(ctx, "kubernetes pod", tracing.Workload.String(w.Name()))
	defer starting.End()
	f := &follower{r: r, w: w, sink: startedSink{sink, starting}, problemSince: map[string]time.Time{}}
	out, err := f.run(limited)
	switch {
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		return workload.Outcome{}, ctx.Err()
	case errors.Is(err, errDeadline):
		err = &workload.Failure{Blame: builds.BlameTimeout, Message: fmt.Sprintf("the build did not end before its deadline (%s)%s", w.Deadline.UTC().Format(time.RFC3339), f.waitedFor()), Err: err}
	}
	return workload.Outcome{}, err
}

func (f *follower) run(ctx context.Context) (workload.Outcome, error) {
	f.sub = f.r.pods.subscribe(f.w.Name())
	defer f.r.pods.unsubscribe(f.w.Name(), f.sub)
	defer f.r.pods.free(f.w.Name()) // the pod was not created, or the watch never showed it
	if err := f.r.pods.awaitSync(ctx); err != nil {
		return workload.Outcome{}, fmt.Errorf("wait for the Kubernetes API: %w", err)
	}
	var err error
	if f.pod, err = f.r.ensurePod(ctx, f.w, f.sink.Offset()); err != nil {
		return workload.Outcome{}, err
	}
	f.created = epochOf(f.pod) == f.w.Epoch && f.sink.Offset() == 0
	if over(f.pod, time.Now()) {
		// The watch may lag behind and show an older state of the pod: use the one from the API.
		out, err := f.finalOutcome(ctx)
		return out, f.markRemains(err)
	}
	if err := f.release(ctx); err != nil {
		return workload.Outcome{}, err
	}
	defer f.endStream()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	renew := time.NewTicker(f.r.opts.RenewInterval)
	defer renew.Stop()
	for {
		if done, out, err := f.advance(ctx); done {
			return out, err
		}
		select {
		case <-f.sub.changed:
		case <-f.streamDone():
		case <-tick.C:
			if f.watchStale() {
				f.poll(ctx)
			}
		case <-renew.C:
			f.renew(ctx)
		case <-f.problemTimer():
		case <-ctx.Done():
			return workload.Outcome{}, context.Cause(ctx)
		}
	}
}

// release lets a new pod run. It first commits that the pod exists, so that no later owner creates
// it a second time if it disappears unseen. A pod whose template names a node has no scheduling
// gate; it waits only for its Secret.
func (f *follower) release(ctx context.Context) (err error) {
	if !f.w.Started && f.w.Created != nil {
		if err := f.w.Created(ctx); err != nil {
			return err
		}
	}
	if f.secret, f.job, err = f.r.ensureSecret(ctx, f.w, f.pod); err != nil || !gated(f.pod) {
		return err
	}
	return f.r.ungate(ctx, f.pod)
}

// advance processes the changes of the pod and its worker. done reports that the workload has
// ended.
func (f *follower) advance(ctx context.Context) (done bool, out workload.Outcome, err error) {
	deleted := f.refresh()
	if f.stream != nil && f.stream.ended() {
		res, err := f.stream.result()
		if err != nil {
			return true, workload.Outcome{}, err
		}
		if res != nil {
			out, err = refine(*res, f.explain(ctx, *res))
			return true, out, f.markRemains(err)
		}
	}
	if deleted || over(f.pod, time.Now()) {
		out, err = f.finalOutcome(ctx)
		return true, out, f.markRemains(err)
	}
	if f.stream == nil && reachable(f.pod) {
		// Report Running before connecting: the worker may be unreachable for long, and its pod may
		// end meanwhile. The next owner has to know that the pod ran.
		f.sink.Running()
		if f.created {
			f.r.metrics.start.Observe(time.Since(f.pod.CreationTimestamp.Time).Seconds())
		}
		if f.stream, err = f.r.openStream(ctx, f.pod, f.job, f.sink); err != nil {
			return true, workload.Outcome{}, err
		}
	}
	if f.stream != nil {
		if silent := f.stream.silence(); silent > f.r.opts.SilentTimeout {
			return true, workload.Outcome{}, infra("the worker of the pod %s on node %s was out of reach for %s: check the network between the service and its build pods", f.pod.Name, f.pod.Spec.NodeName, silent.Round(time.Second))
		}
		return false, out, nil
	}
	if p := pending(f.pod, &f.r.opts); f.tooLong(p) {
		return true, workload.Outcome{}, f.markRemains(p.failure)
	}
	return false, out, nil
}

// markRemains marks a failure that the next owner would find, too, because the pod still exists.
func (f *follower) markRemains(err error) error {
	var known *workload.Failure
	if errors.As(err, &known) {
		known.Remains = f.pod.DeletionTimestamp == nil
	}
	return err
}

// refresh copies the newest state from the watch.
func (f *follower) refresh() (deleted bool) {
	if p, gone := f.sub.get(string(f.pod.UID)); p != nil {
		f.pod, deleted = p, gone
	}
	return deleted
}

// poll reads the pod from the API, in case the watch is broken or began after the end of the pod.
func (f *follower) poll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, pollInterval/2)
	defer cancel()
	pods, err := f.r.opts.Client.CoreV1().Pods(f.pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + f.pod.Name})
	if err != nil {
		return
	}
	for i := range pods.Items {
		if p := &pods.Items[i]; p.UID == f.pod.UID {
			f.sub.set(p, false)
			return
		}
	}
	f.sub.set(f.pod, true)
}

// finalOutcome returns the outcome of a pod from its last known state.
func (f *follower) finalOutcome(ctx context.Context) (workload.Outcome, error) {
	complete := false
	if f.stream != nil {
		f.endStream()
		if res, _ := f.stream.result(); res != nil {
			return refine(*res, f.explain(ctx, *res))
		}
		complete = f.stream.complete()
	}
	res, err := resultOf(f.pod)
	if err == nil && res.Length > 0 {
		complete = complete || f.sink.Offset() >= res.Length // a former owner may have stored all of it
	}
	if !complete && (f.stream != nil || terminated(f.pod, containerWorker) != nil) {
		f.sink.markLost()
	}
	if err == nil {
		return refine(res, f.explain(ctx, res))
	}
	return judge(f.pod)
}

// explainTimeout limits the wait until the kubelet reports why a pod ended. The kubelet usually
// does so within seconds.
const explainTimeout = 10 * time.Second

// explain returns the newest state of the pod. After an infrastructure failure it waits for the
// kubelet to report the reason: the worker notices the end of BuildKit before that.
func (f *follower) explain(ctx context.Context, res podapi.Result) *corev1.Pod {
	if res.Blame != builds.BlameInfrastructure.String() {
		return f.pod
	}
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	for try := 0; ; try++ {
		f.poll(ctx)
		if deleted := f.refresh(); deleted || explained(f.pod) || f.r.pause(ctx, min(try, 2)) != nil {
			return f.pod
		}
	}
}

// tooLong records the start of a problem, and reports whether it has exceeded its limit.
func (f *follower) tooLong(p problem) bool {
	for kind := range f.problemSince {
		if kind != p.kind {
			delete(f.problemSince, kind) // solved meanwhile
		}
	}
	if p.kind == "" {
		return false
	}
	if f.problemSince[p.kind].IsZero() {
		f.problemSince[p.kind] = time.Now()
		f.r.opts.Log.Info("a build pod waits", "pod", f.pod.Name, "for", p.kind, "reason", p.failure.Message)
	}
	return p.limit > 0 && time.Since(f.problemSince[p.kind]) >= p.limit
}

// problemTimer returns a channel that fires when the current problem exceeds its limit.
func (f *follower) problemTimer() <-chan time.Time {
	if f.stream != nil {
		return nil
	}
	p := pending(f.pod, &f.r.opts)
	if p.limit == 0 || f.problemSince[p.kind].IsZero() {
		return nil
	}
	return time.After(time.Until(f.problemSince[p.kind].Add(p.limit)))
}

// watchStale reports whether the state from the watch may be outdated.
func (f *follower) watchStale() bool {
	seen, _ := f.sub.get(string(f.pod.UID))
	return seen == nil || f.pod.DeletionTimestamp != nil || f.stream != nil && f.stream.silence() > 3*pollInterval
}

// waitedFor returns the reason why a pod has never run, for an error message.
func (f *follower) waitedFor() string {
	if f.pod == nil {
		return ": there was no room for its pod, or the Kubernetes API did not answer"
	}
	if p := pending(f.pod, &f.r.opts); p.failure != nil {
		return ": " + p.failure.Message
	}
	return ""
}

func (f *follower) streamDone() <-chan struct{} {
	if f.stream == nil {
		return nil
	}
	return f.stream.done
}

func (f *follower) endStream() {
	if f.stream != nil {
		f.stream.close()
	}
}
