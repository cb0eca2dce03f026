package builds_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
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
	prepared, err := (builds.Preparer{Keyring: buildstest.MustKeyring(t, filepath.Join(t.TempDir(), "keys"))}).Prepare(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(prepared.Payload, []byte(secret)) {
		t.Error("the prepared command contains the secret")
	}
}

// Test_Prepare_KeepsItsInput checks that a command can be prepared again, as it happens when the
// leader changes. Each result holds the secrets.
func Test_Prepare_KeepsItsInput(t *testing.T) {
	ring := buildstest.MustKeyring(t, filepath.Join(t.TempDir(), "keys"))
	p := builds.Preparer{Keyring: ring}
	want := &buildsv1.Secrets{Build: map[string][]byte{"token": []byte("hunter2")}}
	cmd, err := builds.NewCommand(&buildsv1.CreateBuild{Ref: "r:1", Secrets: want, HasSecrets: true})
	if err != nil {
		t.Fatal(err)
	}
	before := proto.CloneOf(cmd)
	for range 2 {
		prepared, err := p.Prepare(t.Context(), cmd)
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(before, cmd) {
			t.Fatal("Prepare changed its input")
		}
		checkSealed(t, ring, prepared, want)
		// Versions up to 0.3.0 send what they have prepared to the next leader.
		if prepared, err = p.Prepare(t.Context(), prepared); err != nil {
			t.Fatal(err)
		}
		checkSealed(t, ring, prepared, want)
	}
}

// checkSealed checks that a prepared command has a build id and these secrets, sealed.
func checkSealed(t *testing.T, ring *secrets.Keyring, cmd *clusterv1.Command, want *buildsv1.Secrets) {
	t.Helper()
	c := new(buildsv1.CreateBuild)
	if err := proto.Unmarshal(cmd.Payload, c); err != nil {
		t.Fatal(err)
	}
	got, err := ring.Open(c.Id, c.Sealed)
	if err != nil || c.Id == "" || c.Secrets != nil || !proto.Equal(got, want) {
		t.Errorf("the command of build %q has the secrets %v (%v), want %v", c.Id, got, err, want)
	}
}

// Test_Create_RefusesABuildWithoutItsSecrets checks a command that announces secrets and has none.
// Below the feature level the build is created, as older versions do.
func Test_Create_RefusesABuildWithoutItsSecrets(t *testing.T) {
	announced := func(c *buildsv1.CreateBuild) { c.HasSecrets = true }
	sealed := func(c *buildsv1.CreateBuild) { c.Sealed = &buildsv1.Sealed{KeyId: "k"} }
	for level, want := range map[uint32]error{4: nil, 5: builds.ErrSecretsLost} {
		m := buildstest.NewMachine(t)
		m.Must(&buildsv1.SetFeatureLevel{Level: level})
		if res := m.Create("r:1", announced, buildstest.WithRequest("q", "h")); !errors.Is(res.Err, want) {
			t.Errorf("level %d: got %v, want %v", level, res.Err, want)
		}
		if known := m.Store.View().Request("alice", "q") != nil; known != (want == nil) {
			t.Errorf("level %d: the request id is known: %v", level, known)
		}
		if res := m.Create("r:2", announced, sealed); res.Err != nil {
			t.Errorf("level %d: with secrets: %v", level, res.Err)
		}
		if res := m.Create("r:3"); res.Err != nil {
			t.Errorf("level %d: no secrets announced: %v", level, res.Err)
		}
	}
}

// Test_Create_JoinsWithoutSecrets: a command that announces secrets and has none joins an active build,
// and a build that has succeeded since the requester looked for the image.
func Test_Create_JoinsWithoutSecrets(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.JoinLevel})
	announced := func(c *buildsv1.CreateBuild) { c.HasSecrets = true }
	id := m.Create("r:1").Build.Id
	if res := m.Create("r:1", announced, buildstest.By("bob")); res.Err != nil || !res.Attached || res.Build.Id != id || !slices.Contains(res.Build.Requesters, "bob") {
		t.Errorf("an active build: %+v", res)
	}
	m.Succeed(id)
	if res := m.Create("r:1", announced); res.Err != nil || !res.Attached || res.Build.Id != id {
		t.Errorf("a build that has succeeded: %+v", res)
	}
}
