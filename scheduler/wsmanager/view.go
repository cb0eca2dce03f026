package wsmanager

import (
	"time"

	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// view is the merged state of one workspace, from all updates. It never goes back to an earlier
// state, in whatever order the updates arrive.
type view struct {
	// seen means that an update arrived, or the start was confirmed.
	seen    bool
	version uint64
	phase   wsman.WorkspacePhase
	// judged means that an update with phase STOPPED contained conditions.
	judged bool
	// Conditions of the updates with phase STOPPING or STOPPED. Later updates may omit them, so a
	// condition that was set once stays set.
	failed, headlessFailed, timeout string
	aborted, stoppedByRequest       bool
	// message is the latest text about the workspace.
	message string
	// url and token give access to the supervisor.
	url, token string
	// missingSince is when ws-manager first reported that the workspace does not exist; zero once
	// it exists again. gone means that it has been missing for long enough.
	missingSince time.Time
	gone         bool
}

// merge returns the view with an update applied. An authoritative update is a response to a query
// and may restart the version count. A streamed update that is older than the view only adds
// missing facts.
func (v view) merge(s *wsman.WorkspaceStatus, authoritative bool) view {
	v.seen, v.missingSince, v.gone = true, time.Time{}, false
	if u := s.GetSpec().GetUrl(); u != "" && (v.url == "" || !v.older(s)) {
		v.url = u
	}
	if t := s.GetAuth().GetOwnerToken(); t != "" && (v.token == "" || !v.older(s)) {
		v.token = t
	}
	phase := s.GetPhase()
	if ending(phase) {
		v = v.conditions(s)
	}
	switch {
	case v.phase == wsman.WorkspacePhase_STOPPED: // ids are never reused
	case phase == wsman.WorkspacePhase_STOPPED:
		v.phase = phase
	case phase == wsman.WorkspacePhase_UNKNOWN:
	case authoritative, !v.older(s) && (s.GetStatusVersion() != 0 || rank(phase) >= rank(v.phase)):
		v.phase = phase
	}
	if !v.older(s) {
		if m := s.GetMessage(); m != "" {
			v.message = m
		}
	}
	if s.GetStatusVersion() != 0 && (authoritative || !v.older(s)) {
		v.version = s.GetStatusVersion()
	}
	return v
}

// older reports whether an update is older than the view. An update without a version may be new.
func (v view) older(s *wsman.WorkspaceStatus) bool {
	return s.GetStatusVersion() != 0 && s.GetStatusVersion() < v.version
}

func (v view) conditions(s *wsman.WorkspaceStatus) view {
	c := s.GetConditions()
	if c == nil {
		return v
	}
	if c.GetFailed() != "" {
		v.failed = c.GetFailed()
	}
	if c.GetHeadlessTaskFailed() != "" {
		v.headlessFailed = c.GetHeadlessTaskFailed()
	}
	if c.GetTimeout() != "" {
		v.timeout = c.GetTimeout()
	}
	v.aborted = v.aborted || c.GetAborted() == wsman.WorkspaceConditionBool_TRUE
	v.stoppedByRequest = v.stoppedByRequest || c.GetStoppedByRequest() == wsman.WorkspaceConditionBool_TRUE
	if s.GetPhase() == wsman.WorkspacePhase_STOPPED {
		v.judged = true
	}
	return v
}

// missing records that ws-manager reported that the workspace does not exist.
func (v view) missing(now time.Time, after time.Duration) view {
	if v.missingSince.IsZero() {
		v.missingSince = now
		return v
	}
	if now.Sub(v.missingSince) >= after {
		v.gone = true
	}
	return v
}

// started reports whether the workspace has begun its work.
func (v view) started() bool {
	return rank(v.phase) >= rank(wsman.WorkspacePhase_INITIALIZING)
}

func ending(p wsman.WorkspacePhase) bool {
	return p == wsman.WorkspacePhase_STOPPING || p == wsman.WorkspacePhase_STOPPED
}

// rank orders phases by their sequence in the life of a workspace. Unknown phases count as running,
// because they are not the end.
func rank(p wsman.WorkspacePhase) int {
	switch p {
	case wsman.WorkspacePhase_UNKNOWN:
		return 0
	case wsman.WorkspacePhase_PENDING:
		return 1
	case wsman.WorkspacePhase_CREATING:
		return 2
	case wsman.WorkspacePhase_INITIALIZING:
		return 3
	case wsman.WorkspacePhase_STOPPING:
		return 5
	case wsman.WorkspacePhase_STOPPED:
		return 6
	}
	return 4
}
