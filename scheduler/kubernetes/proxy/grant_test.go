package proxy

import (
	"net/http"
	"strings"
	"testing"
)

const (
	someDigest  = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	otherDigest = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func dockerfileConfig() *Config {
	return &Config{
		Listen: "127.0.0.1:5000", Token: "0123456789abcdef", Pull: Pull{Any: true},
		Push:    &Push{Repository: "reg.example:5000/base"},
		Cache:   &Cache{Repository: "reg.example:5000/cache", TagPrefix: "cache-", Write: true},
		Context: &Context{Repository: "reg.example:5000/base", Tag: "context-aa", Digest: someDigest},
	}
}

// Test_Decide is the table of the requests that a build may send.
func Test_Decide(t *testing.T) {
	dockerfile := dockerfileConfig()
	readOnlyCache := dockerfileConfig()
	readOnlyCache.Cache.Write = false
	forced := dockerfileConfig()
	forced.Push.Tag = "forced"
	ref := &Config{
		Listen: "127.0.0.1:5000", Token: "0123456789abcdef",
		Pull: Pull{Image: "docker.io/library/busybox@" + someDigest},
		Push: &Push{Repository: "reg.example:5000/workspace"},
	}
	for _, c := range []struct {
		name   string
		config *Config
		method string
		path   string
		want   string // requested tag or digest; "" for refused
	}{
		{"any base by tag", dockerfile, "GET", "pull/docker.io/library/busybox/manifests/1", "1"},
		{"any base by digest", dockerfile, "HEAD", "pull/ghcr.io/a/b/manifests/" + someDigest, someDigest},
		{"layers of a base", dockerfile, "GET", "pull/reg.example__5000/a/blobs/" + someDigest, someDigest},
		{"write to a base", dockerfile, "PUT", "pull/docker.io/library/busybox/manifests/1", ""},
		{"upload to a base", dockerfile, "POST", "pull/docker.io/library/busybox/blobs/uploads/", ""},
		{"delete a base", dockerfile, "DELETE", "pull/docker.io/library/busybox/manifests/" + someDigest, ""},
		{"list tags", dockerfile, "GET", "pull/docker.io/library/busybox/tags/list", ""},
		{"list repositories", dockerfile, "GET", "_catalog", ""},
		{"list referrers", dockerfile, "GET", "pull/docker.io/library/busybox/referrers/" + someDigest, ""},
		{"another use", dockerfile, "GET", "steal/docker.io/library/busybox/manifests/1", ""},
		{"climbing path", dockerfile, "GET", "pull/docker.io/../x/manifests/1", ""},
		{"climbing tag", dockerfile, "GET", "pull/docker.io/library/busybox/manifests/..", ""},
		{"upper-case host", dockerfile, "GET", "pull/Docker.io/library/busybox/manifests/1", ""},
		{"no host", dockerfile, "GET", "pull/manifests/1", ""},

		{"push by digest", dockerfile, "PUT", "push/reg.example__5000/base/manifests/" + someDigest, someDigest},
		{"push by tag", dockerfile, "PUT", "push/reg.example__5000/base/manifests/latest", ""},
		{"push by tag where one is forced", forced, "PUT", "push/reg.example__5000/base/manifests/latest", "forced"},
		{"read back the forced tag", forced, "HEAD", "push/reg.example__5000/base/manifests/forced", "forced"},
		{"read another tag", forced, "HEAD", "push/reg.example__5000/base/manifests/latest", ""},
		{"push elsewhere", dockerfile, "PUT", "push/reg.example__5000/other/manifests/" + someDigest, ""},
		{"push to another host", dockerfile, "PUT", "push/reg.example/base/manifests/" + someDigest, ""},
		{"upload", dockerfile, "POST", "push/reg.example__5000/base/blobs/uploads/", "+"},
		{"upload elsewhere", dockerfile, "POST", "push/reg.example__5000/other/blobs/uploads/", ""},
		{"go on with an upload", dockerfile, "PATCH", "push/reg.example__5000/base/blobs/uploads/ABC234", "ABC234"},
		{"upload without a name", dockerfile, "PATCH", "push/reg.example__5000/base/blobs/uploads/", ""},
		{"does a blob exist", dockerfile, "HEAD", "push/reg.example__5000/base/blobs/" + someDigest, someDigest},
		{"read a blob of others", dockerfile, "GET", "push/reg.example__5000/base/blobs/" + someDigest, ""},
		{"delete a blob", dockerfile, "DELETE", "push/reg.example__5000/base/blobs/" + someDigest, ""},
		{"delete an image", dockerfile, "DELETE", "push/reg.example__5000/base/manifests/" + someDigest, ""},

		{"read the cache", dockerfile, "GET", "cache/reg.example__5000/cache/manifests/cache-1", "cache-1"},
		{"read a layer of the cache", readOnlyCache, "GET", "cache/reg.example__5000/cache/blobs/" + someDigest, someDigest},
		{"write the cache", dockerfile, "PUT", "cache/reg.example__5000/cache/manifests/cache-1", "cache-1"},
		{"write the cache by digest", dockerfile, "PUT", "cache/reg.example__5000/cache/manifests/" + someDigest, someDigest},
		{"write another tag of the cache", dockerfile, "PUT", "cache/reg.example__5000/cache/manifests/latest", ""},
		{"write a cache that is only read", readOnlyCache, "PUT", "cache/reg.example__5000/cache/manifests/cache-1", ""},
		{"upload to a cache that is only read", readOnlyCache, "POST", "cache/reg.example__5000/cache/blobs/uploads/", ""},
		{"delete from the cache", dockerfile, "DELETE", "cache/reg.example__5000/cache/manifests/cache-1", ""},
		{"cache elsewhere", dockerfile, "GET", "cache/reg.example__5000/base/manifests/cache-1", ""},

		{"context", dockerfile, "GET", "context/reg.example__5000/base/manifests/context-aa", "context-aa"},
		{"content of the context", dockerfile, "GET", "context/reg.example__5000/base/blobs/" + someDigest, someDigest},
		{"context of others", dockerfile, "GET", "context/reg.example__5000/base/manifests/context-bb", ""},
		{"content of others", dockerfile, "GET", "context/reg.example__5000/base/blobs/" + otherDigest, ""},
		{"write a context", dockerfile, "PUT", "context/reg.example__5000/base/manifests/context-aa", ""},

		{"the base of a copy", ref, "GET", "pull/docker.io/library/busybox/manifests/" + someDigest, someDigest},
		{"a part of the base of a copy", ref, "GET", "pull/docker.io/library/busybox/manifests/" + otherDigest, otherDigest},
		{"the base of a copy by tag", ref, "GET", "pull/docker.io/library/busybox/manifests/latest", ""},
		{"another base of a copy", ref, "GET", "pull/docker.io/library/alpine/manifests/" + someDigest, ""},
		{"the target of a copy", ref, "PUT", "push/reg.example__5000/workspace/manifests/" + someDigest, someDigest},
		{"a cache for a copy", ref, "GET", "cache/reg.example__5000/cache/manifests/cache-1", ""},
		{"a context for a copy", ref, "GET", "context/reg.example__5000/base/manifests/context-aa", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.config.Validate(); err != nil {
				t.Fatal(err)
			}
			r, err := parse(c.method, "/v2/"+c.path)
			var g grant
			if err == nil {
				g, err = c.config.decide(r)
			}
			got := g.name
			if err == nil && got == "" {
				got = "+"
			}
			if err != nil {
				got = ""
			}
			if got != c.want {
				t.Errorf("%s %s: granted %q (%v), want %q", c.method, c.path, got, err, c.want)
			}
			if err == nil && g.own == (g.use == usePull) {
				t.Errorf("%s %s goes with the wrong credential", c.method, c.path)
			}
			if err == nil && g.write && g.use == useContext {
				t.Errorf("%s %s asks for the right to write", c.method, c.path)
			}
		})
	}
}

// Test_Names is the table of the names of images at the proxy.
func Test_Names(t *testing.T) {
	n := Names{Addr: "127.0.0.1:5000"}
	for in, want := range map[string]string{
		"busybox":                             "127.0.0.1:5000/pull/docker.io/library/busybox",
		"busybox:1":                           "127.0.0.1:5000/pull/docker.io/library/busybox:1",
		"reg.example:5000/a/b:1":              "127.0.0.1:5000/pull/reg.example__5000/a/b:1",
		"reg.example/a:1@" + someDigest:       "127.0.0.1:5000/pull/reg.example/a:1@" + someDigest,
		"127.0.0.1:5000/pull/docker.io/l/b":   "127.0.0.1:5000/pull/docker.io/l/b",
		"127.0.0.1:50001/a":                   "127.0.0.1:5000/pull/127.0.0.1__50001/a",
		"[::1]:5000/a":                        "",
		"no such:thing":                       "",
		"reg.example/a@" + someDigest[:20]:    "",
		"UPPER.example/a":                     "",
		"reg.example:5000/a@" + someDigest:    "127.0.0.1:5000/pull/reg.example__5000/a@" + someDigest,
		"localhost:5000/base:" + "context-aa": "127.0.0.1:5000/pull/localhost__5000/base:context-aa",
	} {
		got, err := n.Pull(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("Pull(%q) = %q, %v, want %q", in, got, err, want)
		}
		if err != nil || !strings.HasPrefix(in, "reg.") {
			continue
		}
		// The repository in the name that a client uses leads back to the original one.
		repo, _ := cutDigest(strings.TrimPrefix(got, n.Addr))
		r, err := parse(http.MethodGet, "/v2"+repo+"/manifests/latest")
		orig, _ := cutDigest(in)
		if err != nil || r.repo.String() != orig {
			t.Errorf("%q leads to %q, %v", got, r.repo, err)
		}
	}
}

// Test_Names_Plain checks that texts show the original names.
func Test_Names_Plain(t *testing.T) {
	n := Names{Addr: "127.0.0.1:5000"}
	for in, want := range map[string]string{
		"":         "",
		"no names": "no names",
		"FROM 127.0.0.1:5000/pull/reg.example__5000/a/b:1@x and 127.0.0.1:5000/cache/docker.io/c": "FROM reg.example:5000/a/b:1@x and docker.io/c",
		"127.0.0.1:5000/other/docker.io/c": "127.0.0.1:5000/other/docker.io/c",
	} {
		if got := n.Plain(in); got != want {
			t.Errorf("Plain(%q) = %q, want %q", in, got, want)
		}
	}
}

// Test_Validate is the table of the configurations that are refused.
func Test_Validate(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"public address": func(c *Config) { c.Listen = "0.0.0.0:5000" },
		"host name":      func(c *Config) { c.Listen = "localhost:5000" },
		"short token":    func(c *Config) { c.Token = "x" },
		"any and one":    func(c *Config) { c.Pull.Image = "a@" + someDigest },
		"base by tag":    func(c *Config) { c.Pull = Pull{Image: "a:1"} },
		"no repository":  func(c *Config) { c.Push.Repository = "UPPER CASE" },
	} {
		c := dockerfileConfig()
		change(c)
		if c.Validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
