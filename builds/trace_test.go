package builds_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

const traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func withTrace(s string) func(*buildsv1.CreateBuild) {
	return func(c *buildsv1.CreateBuild) { c.Traceparent = s }
}

// traceparent creates a build and returns the trace that its record keeps.
func traceparent(m *buildstest.Machine, ref string, opts ...func(*buildsv1.CreateBuild)) string {
	m.T.Helper()
	res := m.Create(ref, opts...)
	if res.Err != nil {
		m.T.Fatal(res.Err)
	}
	return m.Store.Build(res.Build.Id).Traceparent
}

// Test_Trace_OldVersionsAgree checks that below level 3 a build keeps no trace, as in version
// 0.2.0, which does not know the field.
func Test_Trace_OldVersionsAgree(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 2})
	if got := traceparent(m, "r:1", withTrace(traced)); got != "" {
		t.Errorf("level 2 keeps %q", got)
	}
	m.Must(&buildsv1.SetFeatureLevel{Level: 3})
	if got := traceparent(m, "r:2", withTrace(traced)); got != traced {
		t.Errorf("level 3 keeps %q", got)
	}
}

// Test_Trace_OnlyValid checks that only the traceparent of a sampled span is kept.
func Test_Trace_OnlyValid(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 3})
	for i, s := range []string{"", "secret", traced + "x", traced[:54] + "0"} {
		if got := traceparent(m, string(rune('a'+i))+":1", withTrace(s)); got != "" {
			t.Errorf("%q is kept as %q", s, got)
		}
	}
}

// Test_Trace_OfTheFirst checks that a request that joins a build does not change its trace.
func Test_Trace_OfTheFirst(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 3})
	const other = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if first, second := traceparent(m, "r:1", withTrace(traced)), traceparent(m, "r:1", buildstest.By("bob"), withTrace(other)); first != traced || second != traced {
		t.Errorf("kept %q, then %q", first, second)
	}
}

func Test_Trace_SurvivesASnapshot(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 3})
	b := m.Create("r:1", withTrace(traced)).Build
	before := m.Store.Build(b.Id)
	var buf bytes.Buffer
	snap, err := m.Store.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snap.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	if err := m.Store.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	if after := m.Store.Build(b.Id); !proto.Equal(before, after) || after.Traceparent != traced {
		t.Errorf("after the restore: %v", after)
	}
}
