package builds_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

func generated(c *buildsv1.CreateBuild) { c.RequestMade = true }

// Test_Requests_AreBounded fills the table of request ids. Ids that callers chose stay until their
// age, and new requests are refused meanwhile. A repeated request and one without an id need no
// room.
func Test_Requests_AreBounded(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	m.Store.SetRequestLimit(3)
	id := func(i int) func(*buildsv1.CreateBuild) { return buildstest.WithRequest(fmt.Sprint("q", i), "h") }
	for i := range 3 {
		if res := m.Create(fmt.Sprint("r:", i), id(i)); res.Err != nil {
			t.Fatal(res.Err)
		}
	}
	for name, create := range map[string]func() builds.Result{
		"a new build":        func() builds.Result { return m.Create("r:3", id(3)) },
		"an attached build":  func() builds.Result { return m.Create("r:0", id(3), buildstest.By("bob")) },
		"a generated new id": func() builds.Result { return m.Create("r:3", id(3), generated) },
	} {
		if res := create(); !errors.Is(res.Err, builds.ErrTooManyRequests) {
			t.Errorf("%s: got %v, want %v", name, res.Err, builds.ErrTooManyRequests)
		}
	}
	if res := m.Create("r:0", id(0)); res.Err != nil || !res.Repeated {
		t.Errorf("a repeated request: %+v", res)
	}
	if res := m.Create("r:4"); res.Err != nil {
		t.Errorf("a request without an id: %v", res.Err)
	}
	m.Now = m.Now.Add(24*time.Hour - 1)
	if res := m.Create("r:3", id(3)); !errors.Is(res.Err, builds.ErrTooManyRequests) {
		t.Errorf("just before the age of the ids: got %v", res.Err)
	}
	m.Now = m.Now.Add(1)
	m.Must(&buildsv1.Reap{})
	if res := m.Create("r:3", id(3)); res.Err != nil {
		t.Errorf("after the age of the ids: %v", res.Err)
	}
}

// Test_Requests_GeneratedIDsMakeRoom checks that ids that the service generated make room, oldest
// first, once their calls have ended.
func Test_Requests_GeneratedIDsMakeRoom(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	m.Store.SetRequestLimit(3)
	m.Create("r:1", buildstest.WithRequest("chosen", "h"))
	m.Now = m.Now.Add(time.Second)
	m.Create("r:2", buildstest.WithRequest("made 1", "h"), generated)
	m.Now = m.Now.Add(time.Second)
	m.Create("r:3", buildstest.WithRequest("made 2", "h"), generated)
	m.Now = m.Now.Add(58 * time.Second)
	if res := m.Create("r:4", buildstest.WithRequest("next", "h")); !errors.Is(res.Err, builds.ErrTooManyRequests) {
		t.Errorf("all generated ids are younger than a minute: got %v", res.Err)
	}
	m.Now = m.Now.Add(time.Second)
	if res := m.Create("r:4", buildstest.WithRequest("next", "h")); res.Err != nil {
		t.Fatal(res.Err)
	}
	for id, want := range map[string]bool{"chosen": true, "made 1": false, "made 2": true, "next": true} {
		if known := m.Store.View().Request("alice", id) != nil; known != want {
			t.Errorf("id %q is known: %v", id, known)
		}
	}
}

// Test_Requests_BelowTheLevel checks that a cluster with older versions keeps any number of ids.
func Test_Requests_BelowTheLevel(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 4})
	m.Store.SetRequestLimit(1)
	for i := range 3 {
		if res := m.Create(fmt.Sprint("r:", i), buildstest.WithRequest(fmt.Sprint(i), "h")); res.Err != nil {
			t.Errorf("request %d: %v", i, res.Err)
		}
	}
}
