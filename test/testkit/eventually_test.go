package testkit_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// fatal records that a test was ended by Fatalf.
type fatal struct {
	testing.TB
	failed bool
}

func (f *fatal) Helper() {}

func (f *fatal) Fatalf(string, ...any) {
	f.failed = true
	panic(f)
}

func Test_Eventually(t *testing.T) {
	factor := time.Duration(1) // of the timeout
	if testkit.Race {
		factor = 2
	}
	for name, c := range map[string]struct {
		trueAfter time.Duration
		fails     bool
	}{
		"at once":             {0, false},
		"before the timeout":  {900 * time.Millisecond, false},
		"after the timeout":   {1100 * time.Millisecond, true},
		"long after the test": {time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fatal{TB: t}
				began := time.Now()
				defer func() {
					if r := recover(); r != nil && r != any(f) {
						panic(r)
					}
					if took := time.Since(began); f.failed != c.fails || took > factor*1100*time.Millisecond {
						t.Errorf("failed: %t after %s, want %t", f.failed, took, c.fails)
					}
				}()
				testkit.Eventually(f, time.Second, name, func() bool { return time.Since(began) >= factor*c.trueAfter })
			})
		})
	}
}
