package buildstest

import (
	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Cached returns a cached reference, or nil.
func (m *Machine) Cached(ref string) (r *imagebuilderv1.CachedRef) {
	m.Store.Read(func(st *builds.State) { r = st.CachedRef(ref) })
	return r
}

// AssignRefresh assigns a reference to a node and returns the number of its turn.
func (m *Machine) AssignRefresh(ref, node string) (turn uint64) {
	m.T.Helper()
	r := m.Cached(ref)
	res := m.Must(&buildsv1.AssignRefreshes{Assignments: []*buildsv1.AssignRefreshes_Assignment{{Ref: ref, Owner: node, Turn: r.Turn, DueUnixNano: builds.DueAt(r)}}})
	if res.Refs != 1 {
		m.T.Fatalf("the assignment was refused: %+v", res)
	}
	return m.Cached(ref).Turn
}

// RecordRefresh records the result of a turn: a digest, or the text of an error.
func (m *Machine) RecordRefresh(ref string, turn uint64, digest, problem string) builds.Result {
	m.T.Helper()
	return m.Must(&buildsv1.RecordRefreshes{Results: []*buildsv1.RecordRefreshes_Result{{Ref: ref, Turn: turn, Digest: digest, Error: problem, SizeBytes: 7, Anonymous: true}}})
}
