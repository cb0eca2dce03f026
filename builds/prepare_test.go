package builds_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Prepare_SealsWhatIsReplicated checks that the command that is replicated and written to
// disks does not contain a secret.
func Test_Prepare_SealsWhatIsReplicated(t *testing.T) {
	const secret = "a-secret-of-a-request"
	cmd, err := builds.NewCommand(&buildsv1.CreateBuild{Ref: "r:1", Secrets: &buildsv1.Secrets{
		Registry: map[string]*imagebuilderv1.BasicAuth{"registry.example.com": {Username: "u", Password: secret}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(cmd.Payload, []byte(secret)) {
		t.Fatal("the command does not contain the secret before it is prepared")
	}
	if err := (builds.Preparer{Keyring: buildstest.MustKeyring(t, filepath.Join(t.TempDir(), "keys"))}).Prepare(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(cmd.Payload, []byte(secret)) {
		t.Error("the prepared command contains the secret")
	}
}
