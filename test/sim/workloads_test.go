package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// The runtimes of a world: workloads of inNode end with their node; workloads of inPod outlive it,
// and the next owner adopts them.
const (
	inNode = "in-node"
	inPod  = "in-pod"
)

// runtimeOf selects the runtime of a source: pods for half of the images.
func runtimeOf(s *imagebuilderv1.Source) string {
	if h := xxhash.Sum64String(s.GetRef().GetRef()); h%2 == 0 {
		return inPod
	}
	return inNode
}

// workloads are the workloads of a world. Pods outlive all nodes.
type workloads struct {
	w *world

	// lasting is how long each workload runs. If it is 0, that is random.
	lasting time.Duration

	mu   sync.Mutex
	pods map[string]*process // by name of the workload
	// lines is the length of the output of each workload that was started.
	lines map[string]int
}

// process is the workload of one attempt. Its output follows from its name, so that a log can be
// checked.
type process struct {
	name      string
	startedAt time.Time
	lines     int
	interval  time.Duration // from one line to the next
	fails     bool          // whether it fails at its end
	stopped   chan struct{}
}

// start starts a workload of random length. A third of all workloads end at once.
func (o *workloads) start(name string) *process {
	wl := &process{name: name, startedAt: time.Now(), stopped: make(chan struct{}), fails: o.w.intn(20) == 0}
	if o.w.intn(3) > 0 {
		wl.lines, wl.interval = 1+o.w.intn(12), time.Duration(10+o.w.intn(600))*time.Millisecond
	}
	if o.lasting > 0 {
		wl.interval, wl.fails = time.Second, false
		wl.lines = int(o.lasting / wl.interval)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.lines[name]; ok && o.w.t != nil {
		o.w.t.Errorf("seed %d: the workload %s was started twice", o.w.seed, name)
	}
	o.lines[name] = wl.lines
	return wl
}

// pod returns the workload that runs in a pod, or nil.
func (o *workloads) pod(name string) *process {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pods[name]
}

// linesOf returns the number of lines of a workload's whole output, and whether the workload was
// started.
func (o *workloads) linesOf(name string) (lines int, started bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	lines, started = o.lines[name]
	return lines, started
}

// checkSecrets reports an error if an attempt did not receive the credentials of its request.
func (o *workloads) checkSecrets(w *workload.Workload) {
	want := passwordOf(requestedRef(w.Source))
	if want == "" {
		return
	}
	o.w.count("an attempt got the secrets of its build")
	if got := w.Secrets.GetRegistry()[privateHost].GetPassword(); got != want {
		o.w.t.Errorf("seed %d: after %s attempt %d of build %s has the password %q, want %q", o.w.seed, time.Since(o.w.startedAt), w.Attempt, w.BuildID, got, want)
	}
}

// requestedRef returns the reference that a client requested. The source of a workload has it with
// the digest to which it was resolved.
func requestedRef(s *imagebuilderv1.Source) string {
	ref, _, _ := strings.Cut(s.GetRef().GetRef(), "@")
	return ref
}

// line returns line i of the output of a workload.
func line(name string, i int) string { return fmt.Sprintf("%s says line %d\n", name, i) }

// output returns the output until now, or the whole output.
func (wl *process) output(all bool) string {
	n := wl.lines
	if !all && wl.interval > 0 {
		n = min(n, int(time.Since(wl.startedAt)/wl.interval))
	}
	var b strings.Builder
	for i := range n {
		b.WriteString(line(wl.name, i))
	}
	return b.String()
}

// follow copies the output to sink until the workload ends.
func (wl *process) follow(ctx context.Context, sink workload.Sink) (workload.Outcome, error) {
	sink.Running()
	end := wl.startedAt.Add(time.Duration(wl.lines) * wl.interval)
	for {
		over := !time.Now().Before(end)
		if out := wl.output(over)[sink.Offset():]; out != "" {
			if _, err := sink.Write([]byte(out)); err != nil {
				return workload.Outcome{}, err
			}
		}
		if over {
			break
		}
		select {
		case <-ctx.Done():
			return workload.Outcome{}, ctx.Err()
		case <-wl.stopped:
			return workload.Outcome{}, &workload.Failure{Blame: builds.BlameInfrastructure, Message: "the workload was stopped"}
		case <-time.After(wl.interval):
		}
	}
	if wl.fails {
		return workload.Outcome{}, &workload.Failure{Blame: builds.BlameInfrastructure, Message: "a random failure", Remains: true}
	}
	return workload.Outcome{Repository: "r", Digest: "sha256:" + wl.name}, nil
}

// runtime is workload.Runtime on one node.
type runtime struct {
	workloads *workloads
	name      string
}

func (r runtime) Name() string { return r.name }

func (r runtime) Survives() bool { return r.name == inPod }

func (r runtime) Run(ctx context.Context, w *workload.Workload, sink workload.Sink) (workload.Outcome, error) {
	r.workloads.checkSecrets(w)
	if !r.Survives() {
		return r.workloads.start(w.Name()).follow(ctx, sink)
	}
	wl := r.workloads.pod(w.Name())
	switch {
	case wl != nil:
		r.workloads.w.count("a workload was adopted")
	case w.Started:
		r.workloads.w.count("a workload was gone before it could be adopted")
		return workload.Outcome{}, &workload.Failure{Blame: builds.BlameInfrastructure, Message: "the workload is gone"}
	default:
		if err := w.Created(ctx); err != nil {
			return workload.Outcome{}, err
		}
		wl = r.workloads.start(w.Name())
		r.workloads.mu.Lock()
		r.workloads.pods[w.Name()] = wl
		r.workloads.mu.Unlock()
		if r.workloads.w.intn(4) == 0 { // an outside cause removes the pod
			time.AfterFunc(time.Duration(r.workloads.w.intn(400))*time.Millisecond, func() { _ = r.Stop(context.Background(), w.Name()) })
		}
	}
	return wl.follow(ctx, sink) // the pod remains after an error, and the leader removes it
}

func (r runtime) Stop(_ context.Context, name string) error {
	r.workloads.mu.Lock()
	defer r.workloads.mu.Unlock()
	if wl := r.workloads.pods[name]; wl != nil {
		close(wl.stopped)
		delete(r.workloads.pods, name)
	}
	return nil
}

func (r runtime) List(context.Context) (names []string, err error) {
	r.workloads.mu.Lock()
	defer r.workloads.mu.Unlock()
	for name := range r.workloads.pods {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// checkPods waits until there are no pods. It is called after all builds have ended: the leader
// must remove pods without an attempt.
func (w *world) checkPods(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for {
		left, _ := runtime{w.workloads, inPod}.List(ctx)
		if len(left) == 0 {
			return nil
		}
		if !wait(ctx, time.Second) {
			return fmt.Errorf("all builds have ended, but %d pods are left: %s ...", len(left), left[0])
		}
	}
}
