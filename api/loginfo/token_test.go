package loginfo_test

import (
	"path/filepath"
	"testing"

	"github.com/image-builder-ha/image-builder/api/loginfo"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
)

// Test_LogToken checks that a token opens the log of its build and of no other, that it names its
// build, and that it is not valid under the keys of another install.
func Test_LogToken(t *testing.T) {
	k := loginfo.Tokens{Keys: buildstest.MustKeyring(t, filepath.Join(t.TempDir(), "key"))}
	other := loginfo.Tokens{Keys: buildstest.MustKeyring(t, filepath.Join(t.TempDir(), "key"))}
	token, err := k.New(build)
	if err != nil {
		t.Fatal(err)
	}
	if !k.Valid(build, token) {
		t.Error("the token does not open its build")
	}
	if got, ok := k.BuildOf(token); !ok || got != build {
		t.Errorf("the token is of build %q, %v", got, ok)
	}
	if k.Valid("0192d3c4-5e6f-7a8b-9c0d-1e2f3a4b5c6e", token) || other.Valid(build, token) {
		t.Error("the token opens another build, or under another key")
	}
	if again, err := k.New(build); err != nil || again == token {
		t.Errorf("two tokens are the same: %v", err)
	}
	for i := range len(token) { // any changed character
		c := byte('A')
		if token[i] == c {
			c = 'B'
		}
		bad := token[:i] + string(c) + token[i+1:]
		if _, ok := k.BuildOf(bad); ok || k.Valid(build, bad) {
			if i == len(token)-1 {
				continue // its last bits are padding of base64
			}
			t.Errorf("a token changed at byte %d is accepted", i)
		}
	}
	for _, bad := range []string{"", ".", token[:10], token + "AAAA", "unknown" + token, token[:len(token)-20]} {
		if _, ok := k.BuildOf(bad); ok || k.Valid(build, bad) {
			t.Errorf("%q is accepted", bad)
		}
	}
}
