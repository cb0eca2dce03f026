package builds_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_Seal_OpensOnlyForItsBuildAndKey(t *testing.T) {
	dir := t.TempDir()
	ring := buildstest.MustKeyring(t, filepath.Join(dir, "a"))
	secrets := &buildsv1.Secrets{Registry: map[string]*imagebuilderv1.BasicAuth{"h": {Username: "u", Password: "hunter2-hunter2"}}}
	sealed, err := ring.Seal("b1", secrets)
	if err != nil {
		t.Fatal(err)
	}
	if raw, _ := proto.Marshal(sealed); bytes.Contains(raw, []byte("hunter2")) {
		t.Fatal("the sealed value shows the secret")
	}
	got, err := ring.Open("b1", sealed)
	if err != nil || !proto.Equal(got, secrets) {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, err := ring.Open("b2", sealed); err == nil {
		t.Error("the value of another build was opened")
	}
	if _, err := buildstest.MustKeyring(t, filepath.Join(dir, "b")).Open("b1", sealed); !errors.Is(err, builds.ErrKeyMissing) {
		t.Errorf("another key: %v", err)
	}
	spoiled := proto.CloneOf(sealed)
	spoiled.Ciphertext[3] ^= 1
	if _, err := ring.Open("b1", spoiled); err == nil {
		t.Error("a spoiled value was opened")
	}
	if s, err := ring.Seal("b1", &buildsv1.Secrets{}); s != nil || err != nil {
		t.Errorf("no secrets: got %v, %v", s, err)
	}
}

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
		write("text", `hello`, 0o600):                                                    "no JSON list",
		write("short", `[{"id":"a","key":"AAAA"}]`, 0o600):                               "32 bytes",
		write("twice", `[{"id":"a","key":"`+key+`"},{"id":"a","key":"`+key+`"}]`, 0o600): "was there before",
		write("none", `[]`, 0o600):                                                       "holds no key",
		filepath.Join(dir, "missing"):                                                    "open sealing key file",
	} {
		if _, err := builds.LoadKeyring(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", filepath.Base(name), err, want)
		}
	}
	if err := builds.NewKeyFile(filepath.Join(dir, "open")); err == nil {
		t.Error("an existing key file was overwritten")
	}
}

// Test_KeyFile_RefusedForItsMode checks that a changed key file that others can read is used once its
// mode is right. A change of the mode does not change the modification time.
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
	if err := ring.Trouble(); err == nil || !strings.Contains(err.Error(), "chmod 600") || len(ring.IDs()) != 1 {
		t.Errorf("others can read it: %v, keys %v", err, ring.IDs())
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ring.Trouble(); err != nil || len(ring.IDs()) != 2 {
		t.Errorf("its mode is right: %v, keys %v", err, ring.IDs())
	}
}
