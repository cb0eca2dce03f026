package refcache

import (
	"testing"
	"time"
)

func Test_DecidePrewarm(t *testing.T) {
	now := time.Unix(1000, 0)
	for name, test := range map[string]struct {
		want   map[string]string
		former map[string]pull
		next   string
		wake   time.Time
	}{
		"nothing":              {},
		"never tried":          {want: map[string]string{"b": "1", "a": "1"}, next: "a"},
		"pulled":               {want: map[string]string{"a": "1"}, former: map[string]pull{"a": {digest: "1"}}},
		"another digest":       {want: map[string]string{"a": "2"}, former: map[string]pull{"a": {digest: "1"}}, next: "a"},
		"failed, too early":    {want: map[string]string{"a": "1"}, former: map[string]pull{"a": {"1", 1, now.Add(2)}}, wake: now.Add(2)},
		"failed, due":          {want: map[string]string{"a": "1"}, former: map[string]pull{"a": {"1", 1, now}}, next: "a"},
		"failed, then another": {want: map[string]string{"a": "2"}, former: map[string]pull{"a": {"1", 9, now.Add(2)}}, next: "a"},
		"new before failed": {
			want: map[string]string{"a": "1", "b": "1"}, former: map[string]pull{"a": {"1", 1, now.Add(-1)}}, next: "b",
		},
		"failed longest ago": {
			want: map[string]string{"a": "1", "b": "1"}, former: map[string]pull{"a": {"1", 1, now.Add(-1)}, "b": {"1", 1, now.Add(-2)}}, next: "b",
		},
		"earliest wakes": {
			want: map[string]string{"a": "1", "b": "1"}, former: map[string]pull{"a": {"1", 1, now.Add(3)}, "b": {"1", 1, now.Add(2)}}, wake: now.Add(2),
		},
	} {
		if next, wake := decidePrewarm(test.want, test.former, now); next != test.next || !wake.Equal(test.wake) {
			t.Errorf("%s: got %q, %v, want %q, %v", name, next, wake, test.next, test.wake)
		}
	}
}
