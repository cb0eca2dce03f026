package builds_test

import (
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
)

func Test_CacheKey_IsTheNormalisedReference(t *testing.T) {
	for ref, want := range map[string]string{
		"ubuntu:22.04":                             cachedUbuntu,
		"docker.io/library/ubuntu:22.04":           cachedUbuntu,
		"index.docker.io/ubuntu:22.04":             cachedUbuntu,
		"ubuntu":                                   "docker.io/library/ubuntu:latest",
		"host:5000/a/b":                            "host:5000/a/b:latest",
		"ubuntu@sha256:" + strings.Repeat("a", 64): "",
		"a:1@sha256:" + strings.Repeat("a", 64):    "",
		"docker.io/UPPER/case":                     "",
		"":                                         "",
		"https://example.com/a":                    "",
	} {
		got, err := builds.CacheKey(ref)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", ref, got, err, want)
		}
	}
}
