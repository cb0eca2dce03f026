package sbom

import (
	"runtime/debug"
	"strings"
	"testing"
)

func Test_Of(t *testing.T) {
	info := &debug.BuildInfo{
		GoVersion: "go1.26.8", Main: debug.Module{Path: "example.com/main", Version: "v1.0.0"},
		Settings: []debug.BuildSetting{{Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}},
		Deps: []*debug.Module{
			{Path: "example.com/a_b", Version: "v2.0.0+incompatible"},
			{Path: "example.com/a/b", Version: "v1.0.0"},
			{Path: "example.com/old", Version: "v1.0.0", Replace: &debug.Module{Path: "example.com/fork", Version: "v1.0.1"}},
		},
	}
	d := Of(info)
	if d.Creation.Created != "2026-01-02T03:04:05Z" || d.Namespace != Of(info).Namespace {
		t.Errorf("created %s as %s", d.Creation.Created, d.Namespace)
	}
	var urls []string
	ids := map[string]bool{d.ID: true}
	for _, p := range d.Packages {
		urls = append(urls, p.Refs[0].Locator)
		if ids[p.ID] || noID.MatchString(p.ID) {
			t.Errorf("the id %s is taken or wrong", p.ID)
		}
		ids[p.ID] = true
	}
	want := "pkg:golang/example.com/main@v1.0.0 pkg:golang/example.com/a_b@v2.0.0%2Bincompatible pkg:golang/example.com/a/b@v1.0.0 pkg:golang/example.com/fork@v1.0.1 pkg:golang/stdlib@1.26.8"
	if got := strings.Join(urls, " "); got != want {
		t.Errorf("modules %s, want %s", got, want)
	}
	if len(d.Relationships) != len(d.Packages) {
		t.Errorf("%d relationships of %d packages", len(d.Relationships), len(d.Packages))
	}
	for _, r := range d.Relationships {
		if !ids[r.From] || !ids[r.To] {
			t.Errorf("%v has an unknown id", r)
		}
	}
}
