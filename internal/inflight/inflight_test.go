package inflight

import (
	"testing"
	"testing/synctest"
	"time"
)

func Test_Ops_Oldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o Ops
		want := func(step string, age time.Duration) {
			t.Helper()
			if got := o.Oldest(); got != age {
				t.Errorf("%s: %s, want %s", step, got, age)
			}
		}
		want("nothing has begun", 0)
		first := o.Begin()
		time.Sleep(time.Second)
		second := o.Begin()
		time.Sleep(time.Second)
		want("two are in progress", 2*time.Second)
		first()
		want("the first has ended", time.Second)
		second()
		want("both have ended", 0)
	})
}
