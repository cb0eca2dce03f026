package builds_test

import (
	"path/filepath"
	"testing"

	"github.com/image-builder-ha/image-builder/builds/buildstest"
)

// Test_LogToken: a token opens the log of its build, names it, and nothing
// else; of another install's keys it is worth nothing.
func Test_LogToken(t *testing.T) {
	k := buildstest.MustKeyring(t, filepath.Join(t.TempDir(), "key"))
	other := buildstest.MustKeyring(t, filepath.Join(t.TempDir(), "key"))
	const build = "0192d3c4-5e6f-7a8b-9c0d-1e2f3a4b5c6d"
	token, err := k.LogToken(build)
	if err != nil {
		t.Fatal(err)
	}
	if !k.CheckLogToken(build, token) {
		t.Error("the token does not open its build")
	}
	if got, ok := k.BuildOfLogToken(token); !ok || got != build {
		t.Errorf("the token is of build %q, %v", got, ok)
	}
	if k.CheckLogToken("0192d3c4-5e6f-7a8b-9c0d-1e2f3a4b5c6e", token) || other.CheckLogToken(build, token) {
		t.Error("the token opens another build, or under another key")
	}
	if again, err := k.LogToken(build); err != nil || again == token {
		t.Errorf("two tokens are the same: %v", err)
	}
	for i := range len(token) { // any changed character
		c := byte('A')
		if token[i] == c {
			c = 'B'
		}
		bad := token[:i] + string(c) + token[i+1:]
		if _, ok := k.BuildOfLogToken(bad); ok || k.CheckLogToken(build, bad) {
			if i == len(token)-1 {
				continue // its last bits are padding of base64
			}
			t.Errorf("a token changed at byte %d is accepted", i)
		}
	}
	for _, bad := range []string{"", ".", token[:10], token + "AAAA", "unknown" + token, token[:len(token)-20]} {
		if _, ok := k.BuildOfLogToken(bad); ok || k.CheckLogToken(build, bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
}
