package refcache

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// Test_Shorten_CanBeCommitted: a text that is not valid UTF-8 would keep all that
// a node has resolved from being committed.
func Test_Shorten_CanBeCommitted(t *testing.T) {
	for _, s := range []string{strings.Repeat("€", maxRefreshError), "a" + strings.Repeat("€", maxRefreshError), "\xff", "ok"} {
		if got := shorten(s); !utf8.ValidString(got) || len(got) > maxRefreshError || got == "" {
			t.Errorf("%d bytes of %.4q become %d that end with %q", len(s), s, len(got), got[max(0, len(got)-4):])
		}
	}
}
