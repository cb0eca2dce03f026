package podapi_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

// Test_Result_Termination checks that encoded results fit into a termination message, whatever they
// contain.
func Test_Result_Termination(t *testing.T) {
	for name, message := range map[string]string{
		"short":     "exit code 1",
		"long":      "begin " + strings.Repeat("x", 10_000) + " end",
		"escapes":   "begin " + strings.Repeat("\x01\"<", 4_000) + " end",
		"multibyte": "begin " + strings.Repeat("ö€", 4_000) + " end",
		"invalid":   "begin " + strings.Repeat("\xff", 8_000) + " end",
	} {
		raw := podapi.Result{Blame: "BLAME_USER", Message: message}.Encode()
		if len(raw) == 0 || len(raw) > podapi.MaxTermination {
			t.Errorf("%s: %d bytes", name, len(raw))
		}
		r, err := podapi.DecodeResult(string(raw))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, err = r.Outcome()
		var f *workload.Failure
		if !errors.As(err, &f) || f.Blame != builds.BlameUser {
			t.Errorf("%s: %v", name, err)
		}
		if name == "short" && r.Message != message {
			t.Errorf("%s: %q", name, r.Message)
		}
		if name != "short" && (!strings.HasPrefix(r.Message, "begin ") || !strings.HasSuffix(r.Message, " end")) {
			t.Errorf("%s: lost its ends: %q", name, r.Message)
		}
	}
}

// Test_Result_Decode refuses texts that are not results.
func Test_Result_Decode(t *testing.T) {
	for _, m := range []string{"", "panic: oh no", "{}", `{"message":"x"}`, "[]"} {
		if r, err := podapi.DecodeResult(m); err == nil {
			t.Errorf("%q: %+v", m, r)
		}
	}
}

// Test_Job_Workload passes a workload to the worker, without the registry credentials.
func Test_Job_Workload(t *testing.T) {
	w := &workload.Workload{
		BuildID: "b", Attempt: 3, Ref: "r:1", BaseRef: "b:1", Deadline: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{Target: "x", BuildArgs: map[string]string{"a": "b"}}}},
		Rights: &buildsv1.Rights{AllowAll: true},
		Secrets: &buildsv1.Secrets{
			Registry: map[string]*imagebuilderv1.BasicAuth{"reg": {Username: "u", Password: "registry-password"}},
			Build:    map[string][]byte{"id": []byte("\x00binary")},
			Git:      &imagebuilderv1.BasicAuth{Username: "g", Password: "git-password"},
		},
	}
	j := &podapi.Job{Token: "t"}
	if err := j.SetWorkload(w); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "registry-password") {
		t.Error("the job holds a registry credential")
	}
	file := filepath.Join(t.TempDir(), "job.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := podapi.ReadJob(file)
	if err != nil {
		t.Fatal(err)
	}
	got, err := read.Workload()
	if err != nil {
		t.Fatal(err)
	}
	want := *w
	want.Rights, want.Secrets = &buildsv1.Rights{}, &buildsv1.Secrets{Build: w.Secrets.Build, Git: w.Secrets.Git}
	if d := cmp.Diff(&want, got, protocmp.Transform()); d != "" {
		t.Error(d)
	}
	if err := os.WriteFile(file, []byte(`{"somethingNew":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := podapi.ReadJob(file); err == nil || !strings.Contains(err.Error(), "same version") {
		t.Errorf("a job of another version: %v", err)
	}
}
