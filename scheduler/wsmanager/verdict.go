package wsmanager

import (
	"fmt"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// taskFailed is the text by which ws-manager and Gitpod's server tell the
// failure of a user's task from one of the workspace (contract section 5).
const taskFailed = "headless task failed:"

// verdict is what a view means.
type verdict int

const (
	goesOn verdict = iota
	// stopping: the end is near, its conditions may not be final.
	stopping
	// ask: it stopped, but nothing told how; ws-manager has to be asked.
	ask
	// ended: failure tells whether the workspace claims success.
	ended
	// lost: it was there and is gone, and its end was not seen.
	lost
)

// judge decides what is known about a workspace.
func (v view) judge() verdict {
	switch {
	case v.phase == wsman.WorkspacePhase_STOPPED && !v.judged && !v.gone && v.failure("") == nil:
		return ask
	case v.phase == wsman.WorkspacePhase_STOPPED:
		return ended
	case v.phase == wsman.WorkspacePhase_STOPPING && (v.gone || v.failure("") != nil):
		return ended
	case v.gone:
		return lost
	case v.phase == wsman.WorkspacePhase_STOPPING:
		return stopping
	}
	return goesOn
}

// failure is why an ended workspace did not succeed, nil if it claims success.
// The message is `failed`, else `headless_task_failed` (contract section 3).
func (v view) failure(id string) *workload.Failure {
	switch {
	case v.failed != "" && strings.Contains(v.failed, taskFailed), v.failed == "" && v.headlessFailed != "":
		msg := v.failed
		if msg == "" {
			msg = v.headlessFailed
		}
		return &workload.Failure{Blame: builds.BlameUser, Message: bounded(msg)}
	case v.failed != "" && v.timeout != "":
		return &workload.Failure{Blame: builds.BlameTimeout, Message: bounded(v.failed)}
	case v.failed != "":
		return &workload.Failure{Blame: builds.BlameInfrastructure, Message: bounded(v.failed)}
	case v.timeout != "":
		return &workload.Failure{Blame: builds.BlameTimeout, Message: "the build workspace reached its time limit: " + bounded(v.timeout)}
	case v.aborted:
		return &workload.Failure{Blame: builds.BlameInfrastructure, Message: fmt.Sprintf("workspace %s was aborted before its build ended", id)}
	}
	return nil
}

// maxText bounds what ws-manager says and the state keeps.
const maxText = 4 << 10

func bounded(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + " ..."
}

// failureLost tells that a workspace vanished.
func failureLost(id string) *workload.Failure {
	return &workload.Failure{
		Blame:   builds.BlameInfrastructure,
		Message: fmt.Sprintf("ws-manager no longer has workspace %s, and nobody saw how its build ended; it may have been deleted", id),
	}
}

// failureNoImage tells that a workspace claims success in vain. Gitpod's server
// knows the words.
func failureNoImage(v view, id, ref string) *workload.Failure {
	msg := fmt.Sprintf("image build did not produce a workspace image: the registry does not show %s, though workspace %s ended without an error", ref, id)
	if v.stoppedByRequest {
		msg = fmt.Sprintf("workspace %s was stopped on request before its build ended", id)
	}
	return &workload.Failure{Blame: builds.BlameInfrastructure, Message: msg}
}

// failureDeadline tells that the time of the build is over.
func failureDeadline(w *workload.Workload) *workload.Failure {
	return &workload.Failure{
		Blame:   builds.BlameTimeout,
		Message: fmt.Sprintf("the build did not end before its deadline (%s)", w.Deadline.UTC().Format(time.RFC3339)), Err: errDeadline,
	}
}
