//go:build faults

package sim

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/faults"
	"github.com/image-builder-ha/image-builder/test/history"
)

// Test_Mutants switches one defect on after the other: the simulation, which
// finds nothing in a sound service, must find each of them.
func Test_Mutants(t *testing.T) {
	defer faults.SetMutants()
	for _, mutant := range []string{
		"acknowledge-before-commit", "no-epoch-check", "read-without-verify", "dedupe-outside-apply", "deposed-leader-schedules",
	} {
		t.Run(mutant, func(t *testing.T) {
			faults.SetMutants(mutant)
			begin := time.Now()
			for seed := uint64(1); seed <= 60; seed++ {
				if found := caught(t, seed); found != "" {
					t.Logf("%s: caught by the simulation with seed %d after %s: %.160s", mutant, seed, time.Since(begin).Round(time.Millisecond), found)
					return
				}
			}
			t.Errorf("%s survives 60 seeds", mutant)
		})
	}
}

// verdict collects errors that a simulation would fail with.
type verdict struct {
	testing.TB
	found string
}

func (v *verdict) Errorf(format string, args ...any) {
	if v.found == "" {
		v.found = fmt.Sprintf(format, args...)
	}
}

func caught(t *testing.T, seed uint64) string {
	v := &verdict{}
	var h history.History
	synctest.Test(t, func(t *testing.T) {
		v.TB = t
		h = simulate(v, seed, 3+2*int(seed%2), 6)
	})
	if v.found != "" {
		return v.found
	}
	if err := history.Check(h); err != nil {
		return err.Error()
	}
	return ""
}
