package secrets_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds/buildstest"
	"github.com/image-builder-ha/image-builder/builds/secrets"
)

func Test_KeyFile_Refusals(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	key := strings.Repeat("A", 43) + "="
	for name, want := range map[string]string{
		write("open", `[{"id":"a","key":"`+key+`"}]`, 0o644):                             "chmod 600",
		write("text", `hello`, 0o600):                                                    "not a JSON list",
		write("short", `[{"id":"a","key":"AAAA"}]`, 0o600):                               "32 bytes",
		write("twice", `[{"id":"a","key":"`+key+`"},{"id":"a","key":"`+key+`"}]`, 0o600): "of an earlier key",
		write("none", `[]`, 0o600):                                                       "has no key",
		filepath.Join(dir, "missing"):                                                    "open sealing key file",
	} {
		if _, err := secrets.LoadKeyring(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", filepath.Base(name), err, want)
		}
	}
	if err := secrets.NewKeyFile(filepath.Join(dir, "open")); err == nil {
		t.Error("an existing key file was overwritten")
	}
}

// Test_KeyFile_RefusedForItsMode checks that a changed key file that others can read is used once
// its mode is right. A change of the mode does not change the modification time.
func Test_KeyFile_RefusedForItsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	ring := buildstest.MustKeyring(t, path)
	key := strings.Repeat("A", 43) + "="
	if err := os.WriteFile(path, []byte(`[{"id":"a","key":"`+key+`"},{"id":"b","key":"`+key+`"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Minute)
	if err := errors.Join(os.Chmod(path, 0o644), os.Chtimes(path, later, later)); err != nil {
		t.Fatal(err)
	}
	if err := ring.Problem(); err == nil || !strings.Contains(err.Error(), "chmod 600") || len(ring.IDs()) != 1 {
		t.Errorf("others can read it: %v, keys %v", err, ring.IDs())
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ring.Problem(); err != nil || len(ring.IDs()) != 2 {
		t.Errorf("its mode is right: %v, keys %v", err, ring.IDs())
	}
}
