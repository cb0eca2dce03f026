package buildkit_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

func Test_ResolveCommit(t *testing.T) {
	g := newRepo(t, "u", "token")
	first := g.Commit(map[string]string{"v": "first"})
	g.Git("tag", "light")
	g.Git("tag", "-a", "-m", "m", "annotated")
	g.Git("checkout", "-q", "-b", "feature/x")
	feature := g.Commit(map[string]string{"v": "feature"})
	g.Git("tag", "feature/x", first) // git prefers the branch
	g.Git("update-ref", "refs/pull/1/head", first)
	g.Git("checkout", "-q", "main")
	second := g.Commit(map[string]string{"v": "second"})
	credential := &buildsv1.Secrets{Git: &imagebuilderv1.BasicAuth{Username: "u", Password: "token"}}
	elsewhere := strings.Repeat("ab", 20)
	for name, c := range map[string]struct {
		mode    imagebuilderv1.GitTargetMode
		target  string
		secrets *buildsv1.Secrets
		want    string
		fails   string
	}{
		"head":                  {mode: head, target: "feature/x", want: second},
		"local branch":          {mode: local, target: "new", want: second},
		"branch":                {mode: branch, target: "feature/x", want: feature},
		"branch by its ref":     {mode: branch, target: "refs/heads/feature/x", want: feature},
		"tag by its ref":        {mode: branch, target: "refs/tags/feature/x", want: first},
		"tag":                   {mode: branch, target: "light", want: first},
		"annotated tag":         {mode: branch, target: "annotated", want: first},
		"another ref":           {mode: branch, target: "pull/1/head", want: first},
		"commit":                {mode: commit, target: elsewhere, want: elsewhere},
		"token of build secret": {mode: branch, target: "main", secrets: &buildsv1.Secrets{Build: map[string][]byte{"GIT_AUTH_HEADER": []byte("basic dTp0b2tlbg==")}}, want: second},
		"nothing":               {mode: branch, target: "nothing", fails: `no branch or tag "nothing"`},
		"no credential":         {mode: branch, target: "main", secrets: &buildsv1.Secrets{}, fails: "no right to read"},
		"an option":             {mode: branch, target: "--upload-pack=x", fails: "not a branch"},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.secrets
			if s == nil {
				s = credential
			}
			got, err := buildkit.ResolveCommit(t.Context(), http.DefaultClient, g.source(c.mode, c.target, "", "").GetGit(), s)
			var f *workload.Failure
			if got != c.want || (err != nil) != (c.fails != "") || err != nil && (!errors.As(err, &f) || f.Blame != user || !strings.Contains(f.Message, c.fails)) {
				t.Errorf("got %q, %v, want %q, %q", got, err, c.want, c.fails)
			}
		})
	}
	ssh := &imagebuilderv1.GitContext{RemoteUri: "git@example.com:a.git"}
	if _, err := buildkit.ResolveCommit(t.Context(), http.DefaultClient, ssh, nil); err == nil || !strings.Contains(err.Error(), "http") {
		t.Errorf("over ssh: %v", err)
	}
}

// Test_ResolveCommit_AddressPolicy checks that no forbidden address is contacted.
func Test_ResolveCommit_AddressPolicy(t *testing.T) {
	asked := false
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	defer server.Close()
	guarded := &http.Client{Transport: &http.Transport{DialContext: registry.GuardedDial(registry.AddressPolicy{})}}
	if _, err := buildkit.ResolveCommit(t.Context(), guarded, (&repo{url: server.URL + "/a.git"}).source(head, "", "", "").GetGit(), nil); err == nil || asked {
		t.Errorf("error %v, asked: %v", err, asked)
	}
}

// Test_ResolveCommit_StrangeServers uses servers whose responses no git server sends.
func Test_ResolveCommit_StrangeServers(t *testing.T) {
	id := strings.Repeat("ab", 20)
	for name, c := range map[string]struct{ answer, fails string }{
		"a page":        {"<html>", "not git's protocol"},
		"dumb":          {id + "\trefs/heads/main\n", "ends early"},
		"cut":           {"001e# service=git-upload-pack\n0000003f" + id, "ends early"},
		"not upload":    {"001f# service=git-receive-pack\n0000", "does not serve git"},
		"an empty repo": {"001e# service=git-upload-pack\n00000000", "is empty"},
		"an error":      {"001e# service=git-upload-pack\n00000009ERR x0000", "returned an error"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(c.answer)) }))
			defer server.Close()
			got, err := buildkit.ResolveCommit(t.Context(), http.DefaultClient, (&repo{url: server.URL + "/a.git"}).source(head, "", "", "").GetGit(), nil)
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("got %q, %v, want %q", got, err, c.fails)
			}
		})
	}
}

func FuzzReadRefs(f *testing.F) {
	f.Add([]byte("001e# service=git-upload-pack\n0000003f" + strings.Repeat("ab", 20) + " refs/heads/main\n0000"))
	f.Fuzz(func(t *testing.T, data []byte) {
		refs, err := buildkit.ReadRefs(bytes.NewReader(data), []string{"HEAD"})
		if err == nil && len(refs) != 1 {
			t.Errorf("%v", refs)
		}
	})
}
