package buildstest

import (
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Create requests a build of ref for alice, with a timeout of an hour. opts change the command.
func (m *Machine) Create(ref string, opts ...func(*buildsv1.CreateBuild)) builds.Result {
	m.T.Helper()
	m.IDs++
	c := &buildsv1.CreateBuild{
		Id: fmt.Sprintf("%08d-0000-7000-8000-000000000000", m.IDs), Ref: ref, BaseRef: "base", Requester: "alice",
		Source:       &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "base"}}},
		TimeoutNanos: int64(time.Hour),
	}
	for _, o := range opts {
		o(c)
	}
	return m.Apply(c)
}

// By sets the requester of Create.
func By(requester string) func(*buildsv1.CreateBuild) {
	return func(c *buildsv1.CreateBuild) { c.Requester = requester }
}

// WithRequest sets the request id of Create, and the hash of the request.
func WithRequest(id, hash string) func(*buildsv1.CreateBuild) {
	return func(c *buildsv1.CreateBuild) { c.RequestId, c.RequestHash = id, []byte(hash) }
}

// Stop requests the stop of a build.
func (m *Machine) Stop(id string, reason buildsv1.StopReason, requester string) builds.Result {
	m.T.Helper()
	return m.Apply(&buildsv1.StopBuild{BuildId: id, Reason: reason, Requester: requester})
}

// Assign starts the next attempt of a build on n1 and returns its epoch.
func (m *Machine) Assign(id string) uint64 {
	m.T.Helper()
	b := m.Store.Build(id).Build
	epoch := builds.MaxEpoch(b) + 1
	res := m.Must(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
		BuildId: id, Attempt: uint32(len(b.Attempts) + 1), Owner: "n1", OwnerStoreId: "s1",
		Epoch: epoch, BuildVersion: b.Version, Runtime: "copy",
	}}})
	if res.Refused != 0 {
		m.T.Fatalf("assignment of %s was refused", id)
	}
	return epoch
}

// Report reports a phase of the last attempt of a build.
func (m *Machine) Report(id string, epoch uint64, p imagebuilderv1.Phase, digest string) builds.Result {
	m.T.Helper()
	return m.Apply(&buildsv1.ReportPhase{BuildId: id, Attempt: m.Attempts(id), Epoch: epoch, Phase: p, Digest: digest})
}

// Finish ends the last attempt of a build. It sets the build, the attempt and the epoch of c.
func (m *Machine) Finish(id string, epoch uint64, c *buildsv1.FinishAttempt) builds.Result {
	m.T.Helper()
	c.BuildId, c.Attempt, c.Epoch = id, m.Attempts(id), epoch
	return m.Apply(c)
}

// Succeed runs a queued build to its successful end.
func (m *Machine) Succeed(id string) {
	m.T.Helper()
	epoch := m.Assign(id)
	if res := m.Report(id, epoch, builds.Pushing, "sha256:d"); res.Err != nil {
		m.T.Fatal(res.Err)
	}
	if res := m.Finish(id, epoch, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:d", LogLength: 3, LogChecksum: "xxh64:1"}); res.Err != nil {
		m.T.Fatal(res.Err)
	}
}

// Fail runs a queued build to the failure of its next attempt.
func (m *Machine) Fail(id string, blame imagebuilderv1.Blame) builds.Result {
	m.T.Helper()
	return m.Finish(id, m.Assign(id), Failed(blame, "it broke"))
}

// Failed returns the end of a failed attempt, for Finish.
func Failed(blame imagebuilderv1.Blame, message string) *buildsv1.FinishAttempt {
	return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: blame, Message: message}
}

// Attempts returns the number of attempts of a build.
func (m *Machine) Attempts(id string) uint32 { return uint32(len(m.Store.Build(id).Build.Attempts)) }

// Build returns a build, and fails the test if the state does not have it.
func (m *Machine) Build(id string) *imagebuilderv1.Build {
	m.T.Helper()
	r := m.Store.Build(id)
	if r == nil {
		m.T.Fatalf("build %s is not in the state", id)
	}
	return r.Build
}

// WantPhase checks the phase of a build.
func (m *Machine) WantPhase(id string, want imagebuilderv1.Phase) {
	m.T.Helper()
	if got := m.Build(id).Phase; got != want {
		m.T.Fatalf("build %s is %s, want %s", id, got, want)
	}
}
