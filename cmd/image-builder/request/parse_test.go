package request

import (
	"strings"
	"testing"
)

func Test_SplitGitURL(t *testing.T) {
	for _, c := range []struct{ url, target, uri, ref, dir, refused string }{
		{url: "https://a/b.git", uri: "https://a/b.git"},
		{url: "https://a/b.git", target: "main", uri: "https://a/b.git", ref: "main"},
		{url: "https://a/b.git#v1", uri: "https://a/b.git", ref: "v1"},
		{url: "https://a/b.git#v1:sub/dir", uri: "https://a/b.git", ref: "v1", dir: "sub/dir"},
		{url: "https://a/b.git#v1:/sub/", uri: "https://a/b.git", ref: "v1", dir: "sub"},
		{url: "https://a/b.git#:sub", target: "main", uri: "https://a/b.git", ref: "main", dir: "sub"},
		{url: "https://a/b.git#", uri: "https://a/b.git"},
		{url: "https://a/b.git#main", target: "main", uri: "https://a/b.git", ref: "main"},
		{url: "https://a/b.git#v1", target: "main", refused: "give one of them"},
		{url: "https://a/b.git#v1:../x", refused: "outside of the repository"},
	} {
		uri, ref, dir, err := splitGitURL(c.url, c.target)
		if c.refused != "" {
			if err == nil || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v, want %q", c.url, err, c.refused)
			}
			continue
		}
		if err != nil || uri != c.uri || ref != c.ref || dir != c.dir {
			t.Errorf("%s: %q %q %q, %v", c.url, uri, ref, dir, err)
		}
	}
}
