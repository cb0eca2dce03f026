package worker

import (
	"encoding/base64"
	"net/url"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
)

// Test_Redacted checks that the status of the pod shows no secrets, including multi-line secrets in
// the last output, and encoded ones.
func Test_Redacted(t *testing.T) {
	const short, password = "hush", "pass/word+of git"
	key := "-----BEGIN KEY-----\n" + strings.Repeat("line-of-the-key-0123456789\n", 4) + "-----END KEY-----\n"
	w := &workload.Workload{BuildID: "b1", Attempt: 1, Source: &imagebuilderv1.Source{}, Secrets: &buildsv1.Secrets{
		Git:   &imagebuilderv1.BasicAuth{Username: "git", Password: password},
		Build: map[string][]byte{"key": []byte(key), "short": []byte(short + "\n")},
	}}
	j := &podapi.Job{}
	if err := j.SetWorkload(w); err != nil {
		t.Fatal(err)
	}
	whole := base64.StdEncoding.EncodeToString([]byte(key))
	for name, c := range map[string]struct {
		said  string
		parts []string // must not be left
	}{
		"lines":                {key, []string{"line-of-the-key"}},
		"base64":               {whole, []string{whole[:40], whole[60:100]}},
		"base64 of 76 columns": {whole[:76] + "\n" + whole[76:], []string{whole[:40], whole[80:120]}},
		"in JSON":              {strings.ReplaceAll(key, "\n", `\n`), []string{"line-of-the-key"}},
		"in a URL":             {"https://git:" + url.QueryEscape(password) + "@example.com/", []string{url.QueryEscape(password)}},
		"basic auth":           {base64.StdEncoding.EncodeToString([]byte("git:" + password)), []string{"Z2l0OnBhc3M"}},
		"a short one":          {"it is " + short, []string{short}},
	} {
		t.Run(name, func(t *testing.T) {
			message := "build failed: RUN x: exit code 1\nlast output:\n  before\n  " + strings.ReplaceAll(c.said, "\n", "\n  ") + "\n  after"
			got := redacted(podapi.Result{Blame: "BLAME_USER", Message: message}, j)
			for _, p := range c.parts {
				if !strings.Contains(message, p) {
					t.Fatalf("the message does not have %q", p)
				}
				if strings.Contains(got.Message, p) {
					t.Errorf("%q is left: %s", p, got.Message)
				}
			}
			for _, p := range []string{"exit code 1", "  before\n", "\n  after"} {
				if !strings.Contains(got.Message, p) {
					t.Errorf("%q went: %s", p, got.Message)
				}
			}
		})
	}
}
