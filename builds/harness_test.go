package builds_test

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
type machine struct {
	t     testing.TB
	store *builds.Store
	index uint64
	now   time.Time
	ids   int
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	m := &machine{t: t, store: builds.NewStore(), now: time.Unix(1_700_000_000, 0)}
	m.must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-1", Capacity: 100, Runtimes: []string{"copy"}})
	return m
}

// apply applies a command and answers its result.
func (m *machine) apply(payload proto.Message) builds.Result {
	m.t.Helper()
	cmd, err := builds.NewCommand(payload)
	if err != nil {
		m.t.Fatal(err)
	}
	cmd.TimeUnixNano = m.now.UnixNano()
	m.index++
	switch out := m.store.Apply(m.index, cmd).(type) {
	case builds.Result:
		return out
	default:
		m.t.Fatalf("apply %T: %v", payload, out)
		return builds.Result{}
	}
}

// must applies a command that the state has to accept.
func (m *machine) must(payload proto.Message) builds.Result {
	m.t.Helper()
	res := m.apply(payload)
	if res.Err != nil {
		m.t.Fatalf("apply %T: %v", payload, res.Err)
	}
	return res
}

// create asks for an image.
func (m *machine) create(ref string, opts ...func(*buildsv1.CreateBuild)) builds.Result {
	m.t.Helper()
	m.ids++
	c := &buildsv1.CreateBuild{
		Id: fmt.Sprintf("%08d-0000-7000-8000-000000000000", m.ids), Ref: ref, BaseRef: "base", Requester: "alice",
		Source:       &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "base"}}},
		TimeoutNanos: int64(time.Hour),
	}
	for _, o := range opts {
		o(c)
	}
	return m.apply(c)
}

func by(who string) func(*buildsv1.CreateBuild) {
	return func(c *buildsv1.CreateBuild) { c.Requester = who }
}

func withRequest(id, hash string) func(*buildsv1.CreateBuild) {
	return func(c *buildsv1.CreateBuild) { c.RequestId, c.RequestHash = id, []byte(hash) }
}

// assign starts the next attempt of a build and answers its epoch.
func (m *machine) assign(id string) uint64 {
	m.t.Helper()
	b := m.store.Build(id).Build
	epoch := builds.MaxEpoch(b) + 1
	res := m.must(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
		BuildId: id, Attempt: uint32(len(b.Attempts) + 1), Owner: "n1", OwnerStoreId: "s1",
		Epoch: epoch, BuildVersion: b.Version, Runtime: "copy",
	}}})
	if res.Refused != 0 {
		m.t.Fatalf("assignment of %s was refused", id)
	}
	return epoch
}

func (m *machine) report(id string, epoch uint64, p imagebuilderv1.Phase, digest string) builds.Result {
	m.t.Helper()
	return m.apply(&buildsv1.ReportPhase{BuildId: id, Attempt: m.attempts(id), Epoch: epoch, Phase: p, Digest: digest})
}

func (m *machine) finish(id string, epoch uint64, c *buildsv1.FinishAttempt) builds.Result {
	m.t.Helper()
	c.BuildId, c.Attempt, c.Epoch = id, m.attempts(id), epoch
	return m.apply(c)
}

// succeed runs a queued build to its end.
func (m *machine) succeed(id string) {
	m.t.Helper()
	epoch := m.assign(id)
	if res := m.report(id, epoch, builds.Pushing, "sha256:d"); res.Err != nil {
		m.t.Fatal(res.Err)
	}
	if res := m.finish(id, epoch, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:d", LogLength: 3, LogChecksum: "xxh64:1"}); res.Err != nil {
		m.t.Fatal(res.Err)
	}
}

func (m *machine) fail(id string, blame imagebuilderv1.Blame) builds.Result {
	m.t.Helper()
	return m.finish(id, m.assign(id), &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: blame, Message: "it broke"})
}

func (m *machine) attempts(id string) uint32 { return uint32(len(m.store.Build(id).Build.Attempts)) }

func (m *machine) build(id string) *imagebuilderv1.Build {
	m.t.Helper()
	r := m.store.Build(id)
	if r == nil {
		m.t.Fatalf("build %s is not in the state", id)
	}
	return r.Build
}

func (m *machine) wantPhase(id string, want imagebuilderv1.Phase) {
	m.t.Helper()
	if got := m.build(id).Phase; got != want {
		m.t.Fatalf("build %s is %s, want %s", id, got, want)
	}
}

// dump is the state as bytes: two equal states have equal dumps.
func dump(t testing.TB, s *builds.Store) []byte {
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

func finishFailed(blame imagebuilderv1.Blame, message string) *buildsv1.FinishAttempt {
	return &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: blame, Message: message}
}
