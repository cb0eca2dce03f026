package scheduler

import (
	"fmt"
	"testing"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_Place_LocalityAndLoad: builds of one source get the same node while it has at most one
// attempt more than others. Builds of different sources are spread. If a node is lost, only its
// sources move.
func Test_Place_LocalityAndLoad(t *testing.T) {
	slots := func(names ...string) (out []*slot) {
		for _, n := range names {
			out = append(out, &slot{node: &buildsv1.Node{Name: n, Runtimes: []string{"copy"}}, free: 10})
		}
		return out
	}
	where := map[string]string{}
	on := map[string]int{}
	for i := range 90 {
		src := fmt.Sprint("source ", i)
		n := place(slots("a", "b", "c"), "copy", src, "").node.Name
		where[src] = n
		on[n]++
		if again := place(slots("c", "a", "b"), "copy", src, "").node.Name; again != n {
			t.Fatalf("%s goes to %s and to %s", src, n, again)
		}
	}
	for n, count := range on {
		if count < 15 {
			t.Errorf("%d of 90 sources go to node %s", count, n)
		}
	}
	for src, n := range where {
		if now := place(slots("a", "b"), "copy", src, "").node.Name; n != "c" && now != n {
			t.Errorf("%s moves from %s to %s, although only node c has gone", src, n, now)
		}
	}
	load := slots("a", "b", "c")
	for range 30 {
		sl := place(load, "copy", "source 0", "")
		sl.used++
		sl.free--
	}
	for _, sl := range load {
		if sl.used != 10 {
			t.Errorf("node %s runs %d of 30 attempts", sl.node.Name, sl.used)
		}
	}
}
