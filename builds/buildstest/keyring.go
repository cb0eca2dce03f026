package buildstest

import (
	"os"
	"testing"

	"github.com/image-builder-ha/image-builder/builds/secrets"
)

// MustKeyring returns the keys of the file at path. It creates the file if it does not exist.
func MustKeyring(t testing.TB, path string) *secrets.Keyring {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		if err := secrets.NewKeyFile(path); err != nil {
			t.Fatal(err)
		}
	}
	k, err := secrets.LoadKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
