package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/tracing"
)

// deadlineGrace is how much later than the worker, which knows more, the owner
// ends a build at its deadline.
const deadlineGrace = 20 * time.Second

var errDeadline = errors.New("deadline of the build")

// Run creates the workload's pod, or adopts it, and follows it to its end. When
// ctx ends, the pod goes on. Run deletes no pod: whether this node is its owner
// still, which may have been paused meanwhile, is for the caller to know, who
// stops a pod that is given up while it may run. One that ended, or cannot start,
// stays for the case that its end is not committed.
func (r *Runtime) Run(ctx context.Context, w *workload.Workload, sink workload.Sink) (workload.Outcome, error) {
	limited := ctx
	if !w.Deadline.IsZero() {
		var cancel context.CancelFunc
		limited, cancel = context.WithDeadlineCause(ctx, w.Deadline.Add(deadlineGrace), errDeadline)
		defer cancel()
	}
	_, starting := tracing.Start(ctx, "kubernetes pod", tracing.Workload.String(w.Name()))
	defer starting.End()
	f := &follower{r: r, w: w, sink: startedSink{sink, starting}, since: map[string]time.Time{}}
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

// startedSink ends the span of a pod's start when its worker runs.
type startedSink struct {
	workload.Sink
	span trace.Span
}

// Running tells that the workload has started.
func (s startedSink) Running() {
	s.span.End()
	s.Sink.Running()
}

// follower follows one workload.
type follower struct {
	r      *Runtime
	w      *workload.Workload
	sink   workload.Sink
	pod    *corev1.Pod // newest state that is known
	job    *podapi.Job
	secret *corev1.Secret // as it was read or written last
	sub    *podSub
	stream *stream              // once the worker runs
	since  map[string]time.Time // first sight of each problem
	made   bool                 // the pod was made for this owner
}

func (f *follower) run(ctx context.Context) (workload.Outcome, error) {
	f.sub = f.r.pods.subscribe(f.w.Name())
	defer f.r.pods.unsubscribe(f.w.Name(), f.sub)
	defer f.r.pods.free(f.w.Name()) // it was not created, or the watch never showed it
	if err := f.r.pods.awaitSync(ctx); err != nil {
		return workload.Outcome{}, fmt.Errorf("wait for the Kubernetes API: %w", err)
	}
	var err error
	if f.pod, err = f.r.ensurePod(ctx, f.w, f.sink.Offset()); err != nil {
		return workload.Outcome{}, err
	}
	f.made = epochOf(f.pod) == f.w.Epoch && f.sink.Offset() == 0
	if over(f.pod, time.Now()) {
		// The watch may be behind, and show it as it was before.
		out, err := f.judged(ctx)
		return out, f.remains(err)
	}
	if err := f.release(ctx); err != nil {
		return workload.Outcome{}, err
	}
	defer f.endStream()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	renew := time.NewTicker(f.r.o.RenewEvery)
	defer renew.Stop()
	for {
		if done, out, err := f.look(ctx); done {
			return out, err
		}
		select {
		case <-f.sub.news:
		case <-f.streamDone():
		case <-tick.C:
			if f.doubtful() {
				f.ask(ctx)
			}
		case <-renew.C:
			f.renew(ctx)
		case <-f.problemTimer():
		case <-ctx.Done():
			return workload.Outcome{}, context.Cause(ctx)
		}
	}
}

// release lets a new pod run, once the next owner would know that there was one:
// if it is taken away unseen, it is not made a second time. A pod whose template
// names a node has no gate, and waits for its Secret alone.
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

// look acts on what is known. done says that the workload has ended.
func (f *follower) look(ctx context.Context) (done bool, out workload.Outcome, err error) {
	deleted := f.refresh()
	if f.stream != nil && f.stream.ended() {
		res, err := f.stream.result()
		if err != nil {
			return true, workload.Outcome{}, err
		}
		if res != nil {
			out, err = refine(*res, f.explain(ctx, *res))
			return true, out, f.remains(err)
		}
	}
	if deleted || over(f.pod, time.Now()) {
		out, err = f.judged(ctx)
		return true, out, f.remains(err)
	}
	if f.stream == nil && reachable(f.pod) {
		// The worker may be out of reach for long, and its pod end meanwhile: the
		// next owner has to know that there was one.
		f.sink.Running()
		if f.made {
			f.r.count.start.Observe(time.Since(f.pod.CreationTimestamp.Time).Seconds())
		}
		if f.stream, err = f.r.openStream(ctx, f.pod, f.job, f.sink); err != nil {
			return true, workload.Outcome{}, err
		}
	}
	if f.stream != nil {
		if silent := f.stream.silence(); silent > f.r.o.SilentTimeout {
			return true, workload.Outcome{}, infra("the worker of the pod %s on node %s was out of reach for %s: check the network between the service and its build pods", f.pod.Name, f.pod.Spec.NodeName, silent.Round(time.Second))
		}
		return false, out, nil
	}
	if p := pending(f.pod, &f.r.o); f.tooLong(p) {
		return true, workload.Outcome{}, f.remains(p.failure)
	}
	return false, out, nil
}

// remains marks a failure that the pod, as long as it is there, tells the next
// owner as well.
func (f *follower) remains(err error) error {
	var known *workload.Failure
	if errors.As(err, &known) {
		known.Remains = f.pod.DeletionTimestamp == nil
	}
	return err
}

// refresh takes over what the watch has seen.
func (f *follower) refresh() (deleted bool) {
	if p, gone := f.sub.get(string(f.pod.UID)); p != nil {
		f.pod, deleted = p, gone
	}
	return deleted
}

// ask looks at the API itself: the watch may be broken, or have begun after
// the end of the pod.
func (f *follower) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookEvery/2)
	defer cancel()
	pods, err := f.r.o.Client.CoreV1().Pods(f.pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + f.pod.Name})
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

// judged is the end of a pod as its last state tells it.
func (f *follower) judged(ctx context.Context) (workload.Outcome, error) {
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
		complete = complete || f.sink.Offset() >= res.Length // a former owner may have it all
	}
	if !complete && (f.stream != nil || terminated(f.pod, containerWorker) != nil) {
		// Nothing comes after it, so that it does not move what is to come.
		_, _ = f.sink.Write([]byte("\n[the last output of this build was lost with its pod]\n"))
	}
	if err == nil {
		return refine(res, f.explain(ctx, res))
	}
	return judge(f.pod)
}

// explainTime is how long the end of a worker waits for the kubelet to tell what
// happened to its pod: it does so within seconds.
const explainTime = 10 * time.Second

// explain answers the pod in its newest state if its end needs explaining. The
// worker tells that BuildKit is gone before the kubelet tells why.
func (f *follower) explain(ctx context.Context, res podapi.Result) *corev1.Pod {
	if res.Blame != builds.BlameInfrastructure.String() {
		return f.pod
	}
	ctx, cancel := context.WithTimeout(ctx, explainTime)
	defer cancel()
	for try := 0; ; try++ {
		f.ask(ctx)
		if deleted := f.refresh(); deleted || explained(f.pod) || f.r.pause(ctx, min(try, 2)) != nil {
			return f.pod
		}
	}
}

// tooLong notes since when a problem is there, and reports whether its time is
// over.
func (f *follower) tooLong(p problem) bool {
	for kind := range f.since {
		if kind != p.kind {
			delete(f.since, kind) // it has passed
		}
	}
	if p.kind == "" {
		return false
	}
	if f.since[p.kind].IsZero() {
		f.since[p.kind] = time.Now()
		f.r.o.Log.Info("a build pod waits", "pod", f.pod.Name, "for", p.kind, "reason", p.failure.Message)
	}
	return p.limit > 0 && time.Since(f.since[p.kind]) >= p.limit
}

// problemTimer fires when the time of the problem at hand is over.
func (f *follower) problemTimer() <-chan time.Time {
	if f.stream != nil {
		return nil
	}
	p := pending(f.pod, &f.r.o)
	if p.limit == 0 || f.since[p.kind].IsZero() {
		return nil
	}
	return time.After(time.Until(f.since[p.kind].Add(p.limit)))
}

// doubtful reports whether the watch may not tell the truth.
func (f *follower) doubtful() bool {
	seen, _ := f.sub.get(string(f.pod.UID))
	return seen == nil || f.pod.DeletionTimestamp != nil || f.stream != nil && f.stream.silence() > 3*lookEvery
}

// waitedFor says what a pod waited for that never ran.
func (f *follower) waitedFor() string {
	if f.pod == nil {
		return ": there was no room for its pod, or the Kubernetes API did not answer"
	}
	if p := pending(f.pod, &f.r.o); p.failure != nil {
		return ": " + p.failure.Message
	}
	return ""
}

// reachable reports whether the worker can be spoken to.
func reachable(p *corev1.Pod) bool {
	if p.Status.PodIP == "" {
		return false
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == containerWorker {
			return s.State.Running != nil
		}
	}
	return false
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
