package secrets_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds/buildstest"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_Seal_OpensOnlyForItsBuildAndKey(t *testing.T) {
	dir := t.TempDir()
	ring := buildstest.MustKeyring(t, filepath.Join(dir, "a"))
	plain := &buildsv1.Secrets{Registry: map[string]*imagebuilderv1.BasicAuth{"h": {Username: "u", Password: "hunter2-hunter2"}}}
	sealed, err := ring.Seal("b1", plain)
	if err != nil {
		t.Fatal(err)
	}
	if raw, _ := proto.Marshal(sealed); bytes.Contains(raw, []byte("hunter2")) {
		t.Fatal("the sealed value shows the secret")
	}
	got, err := ring.Open("b1", sealed)
	if err != nil || !proto.Equal(got, plain) {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, err := ring.Open("b2", sealed); err == nil {
		t.Error("the value of another build was opened")
	}
	if _, err := buildstest.MustKeyring(t, filepath.Join(dir, "b")).Open("b1", sealed); !errors.Is(err, secrets.ErrKeyMissing) {
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
