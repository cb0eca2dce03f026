package ctxutil_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/internal/ctxutil"
)

func Test_Sleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if !ctxutil.Sleep(t.Context(), time.Second) || time.Since(begin) != time.Second {
			t.Errorf("slept %s, want 1s and a context that goes on", time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin = time.Now()
		if ctxutil.Sleep(ctx, time.Hour) || time.Since(begin) != time.Second {
			t.Errorf("slept %s in a context that ends after 1s", time.Since(begin))
		}
		for _, d := range []time.Duration{-1, 0, time.Hour} {
			if begin = time.Now(); ctxutil.Sleep(ctx, d) || time.Since(begin) != 0 {
				t.Errorf("%s in a context that has ended: slept %s", d, time.Since(begin))
			}
		}
	})
}

func Test_Join(t *testing.T) {
	type key struct{}
	for name, end := range map[string]func(first, second, joined context.CancelFunc){
		"first":  func(first, _, _ context.CancelFunc) { first() },
		"second": func(_, second, _ context.CancelFunc) { second() },
		"joined": func(_, _, joined context.CancelFunc) { joined() },
	} {
		t.Run(name, func(t *testing.T) {
			a, first := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
			defer first()
			b, second := context.WithCancel(t.Context())
			defer second()
			ctx, cancel := ctxutil.Join(a, b)
			defer cancel()
			if ctx.Err() != nil || ctx.Value(key{}) != "value" {
				t.Fatalf("%v, value %v", ctx.Err(), ctx.Value(key{}))
			}
			end(first, second, cancel)
			<-ctx.Done()
		})
	}
}
