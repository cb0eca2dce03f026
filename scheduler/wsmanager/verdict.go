package wsmanager

import (
	"fmt"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// taskFailed is the text by which ws-manager and Gitpod's server distinguish a failure of the
// user's task from a failure of the workspace (docs/gitpod-contract.md, section 5).
const taskFailed = "headless task failed:"

// verdict is the conclusion from a view.
type verdict int

const (
	ongoing verdict = iota
	// stopping: the end is near, but its conditions may not be final.
	stopping
	// unexplained: it stopped, but no update said how; ws-manager must be queried.
	unexplained
	// ended: failure reports whether the workspace claims success.
	ended
	// lost: it existed and is gone, and its end was not observed.
	lost
)

// judge returns the verdict on a workspace.
func (v view) judge() verdict {
	switch {
	case v.phase == wsman.WorkspacePhase_STOPPED && !v.judged && !v.gone && v.failure("") == nil:
		return unexplained
	case v.phase == wsman.WorkspacePhase_STOPPED:
		return ended
	case v.phase == wsman.WorkspacePhase_STOPPING && (v.gone || v.failure("") != nil):
		return ended
	case v.gone:
		return lost
	case v.phase == wsman.WorkspacePhase_STOPPING:
		return stopping
	}
	return ongoing
}

// failure returns the failure of an ended workspace, or nil if the workspace claims success. Its
// text may be long and contain secrets; see bounded. The message is `failed`, else
// `headless_task_failed` (docs/gitpod-contract.md, section 3).
func (v view) failure(id string) *workload.Failure {
	switch {
	case v.failed != "" && strings.Contains(v.failed, taskFailed), v.failed == "" && v.headlessFailed != "":
		msg := v.failed
		if msg == "" {
			msg = v.headlessFailed
		}
		return &workload.Failure{Blame: builds.BlameUser, Message: msg}
	case v.failed != "" && v.timeout != "":
		return &workload.Failure{Blame: builds.BlameTimeout, Message: v.failed}
	case v.failed != "":
		return &workload.Failure{Blame: builds.BlameInfrastructure, Message: v.failed}
	case v.timeout != "":
		return &workload.Failure{Blame: builds.BlameTimeout, Message: "the build workspace reached its time limit: " + v.timeout}
	case v.aborted:
		return &workload.Failure{Blame: builds.BlameInfrastructure, Message: fmt.Sprintf("workspace %s was aborted before its build ended", id)}
	}
	return nil
}

// maxText limits the texts from ws-manager that are replicated, in bytes.
const maxText = 4 << 10

// bounded redacts the text of a failure of ws-manager and then truncates it to maxText bytes. The
// order matters: a truncated secret would no longer match the redaction.
func (s *session) bounded(f *workload.Failure) *workload.Failure {
	out := *f
	out.Message = logs.NewRedactor(secrets.Values(s.w.Secrets), nil).String(f.Message)
	if len(out.Message) > maxText {
		out.Message = strings.ToValidUTF8(out.Message[:maxText], "") + " ..."
	}
	return &out
}

// failureLost returns the failure for a workspace that disappeared.
func failureLost(id string) *workload.Failure {
	return &workload.Failure{
		Blame:   builds.BlameInfrastructure,
		Message: fmt.Sprintf("ws-manager no longer has workspace %s, and the end of its build was not observed; it may have been deleted", id),
	}
}

// failureNoImage returns the failure for a workspace that claims success, but whose image does not
// exist. Gitpod's server matches this text.
func failureNoImage(v view, id, ref string) *workload.Failure {
	msg := fmt.Sprintf("image build did not produce a workspace image: the registry does not show %s, though workspace %s ended without an error", ref, id)
	if v.stoppedByRequest {
		msg = fmt.Sprintf("workspace %s was stopped on request before its build ended", id)
	}
	return &workload.Failure{Blame: builds.BlameInfrastructure, Message: msg}
}

// failureDeadline returns the failure for a build that exceeded its deadline.
func failureDeadline(w *workload.Workload) *workload.Failure {
	return &workload.Failure{
		Blame:   builds.BlameTimeout,
		Message: fmt.Sprintf("the build did not end before its deadline (%s)", w.Deadline.UTC().Format(time.RFC3339)), Err: errDeadline,
	}
}
