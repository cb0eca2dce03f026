package floors_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/cluster/floors"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Floors_WhatAPingShows checks which entries a member has acknowledged for certain.
func Test_Floors_WhatAPingShows(t *testing.T) {
	for _, c := range []struct {
		name                string
		lastIndex, lastTerm uint64
		term, committed     uint64
		want                uint64
	}{
		{"all is committed", 10, 3, 3, 10, 10},
		{"the end is not committed", 10, 3, 3, 8, 8},
		{"the member trails", 6, 3, 3, 8, 6},
		{"the end is of a former term and may be removed", 10, 2, 3, 10, 0},
		{"the term is over", 10, 3, 3, 0, 0},
	} {
		if got := floors.Acknowledged(&clusterv1.PingResponse{LastIndex: c.lastIndex, LastTerm: c.lastTerm}, c.term, c.committed); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
