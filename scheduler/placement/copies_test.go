package placement_test

import (
	"fmt"
	"testing"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/placement"
)

// Test_ChooseCopy_OtherZone: the next copy of a log gets a zone without a copy, as long as there is
// one. Copies of different logs are spread.
func Test_ChooseCopy_OtherZone(t *testing.T) {
	node := func(name, zone string) *buildsv1.Node {
		return &buildsv1.Node{Name: name, StoreId: "s", Zone: zone}
	}
	two := []*buildsv1.Node{node("a1", "a"), node("a2", "a"), node("a3", "a"), node("b1", "b"), node("b2", "b")}
	for name, x := range map[string]struct {
		nodes []*buildsv1.Node
		have  []string
		zones map[string]bool // in which the choice may lie
	}{
		"the other zone":              {two, []string{"a1"}, map[string]bool{"b": true}},
		"the other zone, from there":  {two, []string{"b2"}, map[string]bool{"a": true}},
		"both zones hold one":         {two, []string{"a1", "b1"}, map[string]bool{"a": true, "b": true}},
		"one zone only":               {two[:3], []string{"a1"}, map[string]bool{"a": true}},
		"no node has a zone":          {[]*buildsv1.Node{node("x", ""), node("y", "")}, []string{"x"}, map[string]bool{"": true}},
		"a zone is better than none":  {[]*buildsv1.Node{node("x", ""), node("y", ""), node("z", "z")}, []string{"x"}, map[string]bool{"z": true}},
		"no node is left for another": {two[:1], []string{"a1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var have []*imagebuilderv1.LogCopy
			holds := map[string]bool{}
			for _, h := range x.have {
				have = append(have, &imagebuilderv1.LogCopy{Node: h, StoreId: "s"})
				holds[h] = true
			}
			chosen := map[string]bool{}
			for key := range 64 {
				n := placement.ChooseCopy(x.nodes, have, fmt.Sprint(key))
				if x.zones == nil {
					if n != nil {
						t.Fatalf("chose %v", n)
					}
					continue
				}
				if n == nil || holds[n.Name] || !x.zones[n.Zone] {
					t.Fatalf("log %d goes to %v", key, n)
				}
				chosen[n.Name] = true
			}
			want := 0
			for _, n := range x.nodes {
				if !holds[n.Name] && x.zones[n.Zone] {
					want++
				}
			}
			if len(chosen) != want {
				t.Errorf("64 logs go to %d nodes of %d: %v", len(chosen), want, chosen)
			}
		})
	}
}
