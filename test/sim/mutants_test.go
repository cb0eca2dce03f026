//go:build faults

package sim

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/faults"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// Test_Mutants switches on one defect after the other. The simulation or the named scenario must
// find the defect. Both find nothing in the service without a defect.
func Test_Mutants(t *testing.T) {
	defer faults.SetMutants()
	const random = "Test_Simulation"
	for mutant, by := range map[string]string{
		"acknowledge-before-commit": random,
		"dedupe-outside-apply":      random,
		"no-epoch-check":            "an old epoch is refused",
		"read-without-verify":       "a linearizable read asks a quorum",
		"deposed-leader-schedules":  "the term of a deposed leader commits nothing",

		"a-hanging-disk-is-no-loss":      "a node whose log disk hangs is lost",
		"a-hanging-node-keeps-its-lease": "a node whose log disk hangs is lost",

		"read-index-by-verify-leader": "a linearizable read counts no old answers",
	} {
		t.Run(mutant, func(t *testing.T) {
			faults.SetMutants(mutant)
			begin := time.Now()
			found := ""
			if by == random {
				for seed := uint64(1); seed <= 10 && found == ""; seed++ {
					found = firstError(t, seed)
				}
			} else {
				synctest.Test(t, func(t *testing.T) {
					if err := runScenario(t, scenarios[by]); err != nil {
						found = err.Error()
					}
				})
			}
			if found == "" {
				t.Errorf("%s survives %q", mutant, by)
			}
			t.Logf("%s: caught by %q after %s: %.160s", mutant, by, time.Since(begin).Round(time.Millisecond), found)
		})
	}
}

// errorRecorder is a testing.TB that records the first error instead of failing the test.
type errorRecorder struct {
	testing.TB
	found string
}

func (v *errorRecorder) Errorf(format string, args ...any) {
	if v.found == "" {
		v.found = fmt.Sprintf(format, args...)
	}
}

func (v *errorRecorder) Logf(string, ...any) {}

// firstError runs a simulation and returns its first error, or "".
func firstError(t *testing.T, seed uint64) string {
	v := &errorRecorder{}
	var h history.History
	synctest.Test(t, func(t *testing.T) {
		v.TB = t
		h = simulate(v, seed, 3+2*int(seed%2), 3)
	})
	if v.found != "" {
		return v.found
	}
	if err := history.Check(h); err != nil {
		return err.Error()
	}
	return ""
}
