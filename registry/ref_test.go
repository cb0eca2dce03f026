package registry_test

import (
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/registry"
)

const someDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000001"

func TestParseRef_RendersAsDockerDoes(t *testing.T) {
	for in, want := range map[string]string{
		"ubuntu":                           "docker.io/library/ubuntu",
		"ubuntu:22.04":                     "docker.io/library/ubuntu:22.04",
		"docker.io/ubuntu":                 "docker.io/library/ubuntu",
		"index.docker.io/library/ubuntu":   "docker.io/library/ubuntu",
		"gitpod/workspace-full":            "docker.io/gitpod/workspace-full",
		"host:5000/a/b:t":                  "host:5000/a/b:t",
		"host:5000/a/b:t@" + someDigest:    "host:5000/a/b@" + someDigest,
		"ubuntu@" + someDigest:             "docker.io/library/ubuntu@" + someDigest,
		"localhost/a":                      "localhost/a",
		"[::1]:5000/a:b":                   "[::1]:5000/a:b",
		"registry.example.com/base-images": "registry.example.com/base-images",
	} {
		named, err := registry.ParseRef(in)
		if err != nil {
			t.Errorf("ParseRef(%q): %v", in, err)
			continue
		}
		if got := named.String(); got != want {
			t.Errorf("ParseRef(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestParseRef_RefusesWithAReason(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "it is empty",
		"Ubuntu":                               "lower case",
		"a/B:t":                                "lower case",
		"ubuntu\n":                             "control character",
		"ubu\x00ntu":                           "control character",
		"ubuntu:":                              "not of the form",
		"ubuntu:a b":                           "not of the form",
		"../x":                                 "not of the form",
		"ubuntu@sha256:abc":                    "not of the form",
		"ubuntu@sha256:zz":                     "not of the form",
		"a@sha512:" + strings.Repeat("0", 128): "not a sha256 digest",
		strings.Repeat("a", 1025):              "longer than 1024 bytes",
		strings.Repeat("a", 300):               "longer than 255 bytes",
		strings.Repeat("0", 64):                "not of the form",
		"https://registry.example.com/a":       "looks like a URL",
	} {
		_, err := registry.ParseRef(in)
		if registry.KindOf(err) != registry.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRef(%.40q): error %v, want one of kind Invalid with %q", in, err, want)
			continue
		}
		if len(in) > 64 && strings.Contains(err.Error(), in[:65]) {
			t.Errorf("ParseRef(%.40q): the error quotes more than 64 bytes", in)
		}
	}
}

func TestParseRef_NeverEchoesCredentials(t *testing.T) {
	for _, in := range []string{
		"https://user:hunter2@registry.example.com/a",
		"user:hunter2@registry.example.com/a:t",
		"user:hunter2@registry.example.com/a@" + someDigest,
		"user:hunter2@sha.example.com/a",
		"user:hunter2@sha256.example.com/a",
		"user:hunter2@sha256:5000/a",
		"git://hunter2@x",
		"user:hunter2\n@host/a",
		"https://hunter2.example.com/a",
		"a://" + strings.Repeat("hunter2", 200),
	} {
		_, err := registry.ParseRef(in)
		if registry.KindOf(err) != registry.Invalid {
			t.Errorf("ParseRef(%q): %v, want an error of kind Invalid", in, err)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the credential: %v", err)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{
		"ubuntu", "docker.io/library/ubuntu:22.04", "host:5000/a/b:t@" + someDigest,
		"user:pass@host/a", "A", "a\x00", "[::1]:5000/a", "index.docker.io/a", "https://a/b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		named, err := registry.ParseRef(s)
		if err != nil {
			if registry.KindOf(err) != registry.Invalid {
				t.Fatalf("ParseRef(%q): an error that is not Invalid: %v", s, err)
			}
			if len(err.Error()) > 600 {
				t.Fatalf("ParseRef(%q): an error of %d bytes", s, len(err.Error()))
			}
			return
		}
		// The result of parsing is a fixed point and has one spelling.
		again, err := registry.ParseRef(named.String())
		if err != nil || again.String() != named.String() {
			t.Fatalf("ParseRef(%q) = %q, which parses as %v, %v", s, named, again, err)
		}
		if strings.HasPrefix(named.String(), "index.docker.io/") {
			t.Fatalf("ParseRef(%q) = %q, want docker.io", s, named)
		}
		if strings.Count(named.String(), "@") > 1 || strings.ContainsAny(named.String(), "\n\x00 ?#") {
			t.Fatalf("ParseRef(%q) = %q", s, named)
		}
	})
}
