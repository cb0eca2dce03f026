package buildstest

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// machine applies commands to a store as the replicated log would.
type Machine struct {
	T     testing.TB
	Store *builds.Store
	Index uint64
	Now   time.Time
	IDs   int
}

func NewMachine(t testing.TB) *Machine {
	t.Helper()
	m := &Machine{T: t, Store: builds.NewStore(), Now: time.Unix(1_700_000_000, 0)}
	m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-1", Capacity: 100, Runtimes: []string{"copy"}})
	return m
}

// apply applies a command and answers its result.
func (m *Machine) Apply(payload proto.Message) builds.Result {
	m.T.Helper()
	cmd, err := builds.NewCommand(payload)
	if err != nil {
		m.T.Fatal(err)
	}
	cmd.TimeUnixNano = m.Now.UnixNano()
	m.Index++
	switch out := m.Store.Apply(m.Index, cmd).(type) {
	case builds.Result:
		return out
	default:
		m.T.Fatalf("apply %T: %v", payload, out)
		return builds.Result{}
	}
}

// must applies a command that the state has to accept.
func (m *Machine) Must(payload proto.Message) builds.Result {
	m.T.Helper()
	res := m.Apply(payload)
	if res.Err != nil {
		m.T.Fatalf("apply %T: %v", payload, res.Err)
	}
	return res
}

// create asks for an image.
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

func By(who string) func(*buildsv1.CreateBuild) {
	return func(c *buildsv1.CreateBuild) { c.Requester = who }
}

func WithRequest(id, hash string) func(*buildsv1.CreateBuild) {
	return func(c *buildsv1.CreateBuild) { c.RequestId, c.RequestHash = id, []byte(hash) }
}

// assign starts the next attempt of a build and answers its epoch.
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

func (m *Machine) Report(id string, epoch uint64, p imagebuilderv1.Phase, digest string) builds.Result {
	m.T.Helper()
	return m.Apply(&buildsv1.ReportPhase{BuildId: id, Attempt: m.Attempts(id), Epoch: epoch, Phase: p, Digest: digest})
}

func (m *Machine) Finish(id string, epoch uint64, c *buildsv1.FinishAttempt) builds.Result {
	m.T.Helper()
	c.BuildId, c.Attempt, c.Epoch = id, m.Attempts(id), epoch
	return m.Apply(c)
}

// succeed runs a queued build to its end.
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

func (m *Machine) Fail(id string, blame imagebuilderv1.Blame) builds.Result {
	m.T.Helper()
	return m.Finish(id, m.Assign(id), &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: blame, Message: "it broke"})
}

func (m *Machine) Attempts(id string) uint32 { return uint32(len(m.Store.Build(id).Build.Attempts)) }

func (m *Machine) Build(id string) *imagebuilderv1.Build {
	m.T.Helper()
	r := m.Store.Build(id)
	if r == nil {
		m.T.Fatalf("build %s is not in the state", id)
	}
	return r.Build
}

func (m *Machine) WantPhase(id string, want imagebuilderv1.Phase) {
	m.T.Helper()
	if got := m.Build(id).Phase; got != want {
		m.T.Fatalf("build %s is %s, want %s", id, got, want)
	}
}

// dump is the state as bytes: two equal states have equal dumps.
func Dump(t testing.TB, s *builds.Store) []byte {
	t.Helper()
	snap, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := snap.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func FinishFailed(blame imagebuilderv1.Blame, message string) *buildsv1.FinishAttempt {
	return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: blame, Message: message}
}
