package buildstest

import (
	"os"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func (m *Machine) Counts() (c builds.Counts) {
	m.Store.Read(func(s *builds.State) { c = s.Counts() })
	return c
}

func (m *Machine) Stop(id string, reason buildsv1.StopReason, who string) builds.Result {
	m.T.Helper()
	return m.Apply(&buildsv1.StopBuild{BuildId: id, Reason: reason, Requester: who})
}

func (m *Machine) CachedIn(st *builds.State, ref string) *imagebuilderv1.CachedRef {
	return st.CachedRef(ref)
}

func (m *Machine) Record(ref string, turn uint64, digest, problem string) builds.Result {
	m.T.Helper()
	return m.Must(&buildsv1.RecordRefreshes{Results: []*buildsv1.RecordRefreshes_Result{{Ref: ref, Turn: turn, Digest: digest, Error: problem, SizeBytes: 7, Anonymous: true}}})
}

// Turn gives a reference to a node and answers the number of the turn.
func (m *Machine) Turn(ref, node string) uint64 {
	m.T.Helper()
	r := m.Cached(ref)
	res := m.Must(&buildsv1.AssignRefreshes{Assignments: []*buildsv1.AssignRefreshes_Assignment{{Ref: ref, Owner: node, Turn: r.Turn, DueUnixNano: builds.DueAt(r)}}})
	if res.Refs != 1 {
		m.T.Fatalf("the assignment was refused: %+v", res)
	}
	return m.Cached(ref).Turn
}

func (m *Machine) Cached(ref string) (r *imagebuilderv1.CachedRef) {
	m.Store.Read(func(st *builds.State) { r = st.CachedRef(ref) })
	return r
}

// MustKeyring returns the keys of the file at path, which it makes if there is none.
func MustKeyring(t testing.TB, path string) *builds.Keyring {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		if err := builds.NewKeyFile(path); err != nil {
			t.Fatal(err)
		}
	}
	k, err := builds.LoadKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
