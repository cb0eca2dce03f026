//go:build kubernetes

package kwok_test

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

const (
	user    = imagebuilderv1.Blame_BLAME_USER
	infra   = imagebuilderv1.Blame_BLAME_INFRASTRUCTURE
	quota   = imagebuilderv1.Blame_BLAME_QUOTA
	timeout = imagebuilderv1.Blame_BLAME_TIMEOUT
)

// ending is the end of the pod of one attempt, and the expected result of the attempt.
type ending struct {
	// kind selects a stage of stages.yaml, or an action of the director.
	kind string
	// exit, reason and message belong to the container of the worker, or to the pod.
	exit            int
	reason, message string
	// blame is zero for success. The message of the attempt contains one of says.
	blame imagebuilderv1.Blame
	says  []string
}

// annotation is the prefix of the annotations of a script.
const annotation = "script.test/"

// annotations returns the annotations that stages.yaml reads.
func (e ending) annotations(after time.Duration) map[string]string {
	return map[string]string{
		annotation + "ending": e.kind, annotation + "after": after.String(), annotation + "exit": strconv.Itoa(e.exit),
		annotation + "reason": e.reason, annotation + "message": e.message,
	}
}

// script determines the endings of the attempts of one build.
type script struct {
	name     string
	attempts []ending
	after    time.Duration // how long a pod runs
}

// end returns the expected end of the build.
func (s script) end() (imagebuilderv1.Phase, imagebuilderv1.Blame) {
	last := s.attempts[len(s.attempts)-1]
	if last.blame == 0 {
		return imagebuilderv1.Phase_PHASE_SUCCEEDED, 0
	}
	return imagebuilderv1.Phase_PHASE_FAILED, last.blame
}

// check returns the differences between a build and its script, or "".
func (s script) check(b *imagebuilderv1.Build, digest string) string {
	var wrong []string
	phase, blame := s.end()
	if b.Phase != phase || b.Blame != blame {
		wrong = append(wrong, fmt.Sprintf("it ended as %s, %s", b.Phase, b.Blame))
	}
	if phase == imagebuilderv1.Phase_PHASE_SUCCEEDED && b.Digest != digest {
		wrong = append(wrong, "its digest is "+b.Digest)
	}
	if len(b.Attempts) != len(s.attempts) {
		wrong = append(wrong, fmt.Sprintf("it has %d attempts, not %d", len(b.Attempts), len(s.attempts)))
	}
	for i, a := range b.Attempts[:min(len(b.Attempts), len(s.attempts))] {
		if want := s.attempts[i]; a.Blame != want.blame || !want.matches(a.Message) {
			wrong = append(wrong, fmt.Sprintf("attempt %d should end as %s with one of %q", a.Number, want.blame, want.says))
		}
	}
	if wrong == nil {
		return ""
	}
	var as []string
	for _, a := range b.Attempts {
		as = append(as, fmt.Sprintf("attempt %d by %s: %s, %s: %q", a.Number, a.Owner, a.Phase, a.Blame, a.Message))
	}
	return fmt.Sprintf("%s (%s): %s\n\t%s", b.Id, s.name, strings.Join(wrong, "; "), strings.Join(as, "\n\t"))
}

// matches reports whether the message contains one of the expected texts.
func (e ending) matches(message string) bool {
	for _, s := range e.says {
		if strings.Contains(message, s) {
			return true
		}
	}
	return len(e.says) == 0
}

// Messages about a pod that does not exist any more when its next owner looks for it, or when its
// owner reaches the API again.
const (
	gone     = "is gone"
	vanished = "vanished"
)

// scripts returns all scripts. Successful workers report that they pushed repository@digest.
func scripts(repository, digest string) []script {
	result := func(r podapi.Result) string {
		raw, err := json.Marshal(r)
		if err != nil {
			panic(err) // strings and a number can always be encoded
		}
		return string(raw)
	}
	var (
		success = ending{kind: "worker", reason: "Completed", message: result(podapi.Result{Repository: repository, Digest: digest, SizeBytes: 1})}
		step    = ending{kind: "worker", exit: 1, reason: "Error", message: result(podapi.Result{Blame: user.String(), Message: "RUN make: exit code 2"}), blame: user, says: []string{"RUN make: exit code 2"}}
		crash   = ending{kind: "worker", exit: 2, reason: "Error", message: "panic: no", blame: infra, says: []string{"exit code 2"}}
		oom     = ending{kind: "worker", exit: 137, reason: "OOMKilled", blame: infra, says: []string{"container worker"}}
		hungry  = ending{kind: "buildkit", exit: 1, reason: "Error", message: result(podapi.Result{Blame: infra.String(), Message: "BuildKit does not respond"}), blame: quota, says: []string{"needs more memory"}}
		evicted = ending{kind: "pod", reason: "Evicted", message: "The node was low on resource: memory.", blame: infra, says: []string{"evicted the pod"}}
		disk    = ending{kind: "pod", reason: "Evicted", message: "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi.", blame: quota, says: []string{"its disk limit"}}
		late    = ending{kind: "pod", reason: "DeadlineExceeded", message: "Pod was active on the node longer than the specified deadline", blame: timeout, says: []string{"deadline"}}
		image   = ending{kind: "image", blame: infra, says: []string{"cannot be pulled"}}
		deleted = ending{kind: "deleted", blame: infra, says: []string{"was deleted", vanished, gone}}
		vanish  = ending{kind: "vanishes", blame: infra, says: []string{vanished, "was deleted", gone}}
		lost    = ending{kind: "lost", blame: infra, says: []string{"was lost", vanished, gone}}
		preempt = ending{kind: "preempted", blame: infra, says: []string{"preempted", vanished, gone}}
	)
	var all []script
	add := func(parts int, name string, attempts ...ending) {
		for range parts {
			all = append(all, script{name: name, attempts: attempts})
		}
	}
	add(28, "success", success)
	add(4, "a step fails", step)
	add(2, "BuildKit out of memory", hungry)
	add(2, "disk limit", disk)
	add(2, "deadline", late)
	add(1, "worker crashes", crash, success)
	add(1, "worker out of memory", oom, success)
	add(2, "evicted", evicted, success)
	add(1, "no image", image, success)
	add(2, "deleted", deleted, success)
	add(1, "vanishes", vanish, success)
	add(1, "node lost", lost, success)
	add(1, "preempted", preempt, success)
	add(1, "deleted, then a step fails", deleted, step)
	add(1, "evicted repeatedly", evicted, evicted, evicted)
	return all
}
