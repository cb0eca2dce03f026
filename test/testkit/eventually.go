package testkit

import (
	"context"
	"testing"
	"time"
)

// Eventually polls until cond returns true. It ends the test if that takes longer than timeout, or
// twice as long with the race detector, with which all code is several times slower. The argument what
// completes the sentence "it is not true that ...". Eventually must be called from the goroutine of
// the test.
func Eventually(t testing.TB, timeout time.Duration, what string, cond func() bool) {
	t.Helper()
	if Race {
		timeout *= 2
	}
	const longest = 10 * time.Millisecond
	pause := time.Millisecond
	for deadline := time.Now().Add(timeout); !cond(); pause = min(2*pause, longest) {
		if time.Now().After(deadline) {
			t.Fatalf("after %s it is not true that %s", timeout, what)
		}
		<-time.After(pause)
	}
}

// Context returns a context that ends after timeout, or with the test.
func Context(t testing.TB, timeout time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	t.Cleanup(cancel)
	return ctx
}
