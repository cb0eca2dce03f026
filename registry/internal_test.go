package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func TestCanonicalHost(t *testing.T) {
	for _, c := range []struct {
		in    string
		plain bool
		want  string
	}{
		{"Registry.Example.COM", false, "registry.example.com"},
		{"registry.example.com.", false, "registry.example.com"},
		{"registry.example.com:443", false, "registry.example.com"},
		{"registry.example.com:443", true, "registry.example.com:443"},
		{"registry.example.com:80", false, "registry.example.com:80"},
		{"registry.example.com:80", true, "registry.example.com"},
		{"registry.example.com:5000", false, "registry.example.com:5000"},
		{"index.docker.io", false, "docker.io"},
		{"registry-1.docker.io:443", false, "docker.io"},
		{"evil-docker.io", false, "evil-docker.io"},
		{"[::1]:5000", true, "[::1]:5000"},
		{"[::1]", true, "::1"},
	} {
		if got := canonicalHost(c.in, c.plain); got != c.want {
			t.Errorf("canonicalHost(%q, %v) = %q, want %q", c.in, c.plain, got, c.want)
		}
	}
}

func TestChoose_FindsThePlatform(t *testing.T) {
	index := &v1.IndexManifest{}
	for i, p := range []string{"unknown/unknown", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/amd64", "linux/amd64/v3", "windows/amd64"} {
		platform, err := v1.ParsePlatform(p)
		if err != nil {
			t.Fatal(err)
		}
		index.Manifests = append(index.Manifests, v1.Descriptor{MediaType: types.OCIManifestSchema1, Platform: platform, Size: int64(i)})
	}
	for in, want := range map[string]int64{
		"": 4, "linux/amd64": 4, "LINUX/x86_64": 4, "linux/amd64/v3": 5, "linux/arm64": 3, "linux/arm64/v8": 3,
		"linux/aarch64": 3, "linux/arm": 2, "linux/arm/v6": 1, "windows/amd64": 6, "linux/s390x": -1, "linux/arm64/v9": -1,
	} {
		p, err := parsePlatform(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := choose(index, p)
		if want < 0 {
			if examine(err).kind != NotFound || !strings.Contains(err.Error(), "linux/arm/v6, linux/arm/v7, linux/arm64, linux/amd64") {
				t.Errorf("choose(%q): %v, want NotFound with the available platforms", in, err)
			}
		} else if err != nil || got.Size != want {
			t.Errorf("choose(%q) = entry %d, %v, want entry %d", in, got.Size, err, want)
		}
	}
}

func TestChoose_AnEntryWithoutPlatformIsTheDefaultAtLast(t *testing.T) {
	index := &v1.IndexManifest{Manifests: []v1.Descriptor{{MediaType: types.OCIImageIndex}, {MediaType: types.OCIManifestSchema1, Size: 7}}}
	amd64, arm64 := v1.Platform{OS: "linux", Architecture: "amd64"}, v1.Platform{OS: "linux", Architecture: "arm64"}
	if got, err := choose(index, amd64); err != nil || got.Size != 7 {
		t.Errorf("amd64: %v, %v", got, err)
	}
	if got, err := choose(index, arm64); err == nil {
		t.Errorf("arm64: %v, want an error", got)
	}
}

func TestParsePlatform_RefusesOthers(t *testing.T) {
	for _, s := range []string{"linux", "linux/", "/amd64", "a/b/c/d", strings.Repeat("a", 70) + "/b"} {
		if p, err := parsePlatform(s); examine(err).kind != Invalid {
			t.Errorf("parsePlatform(%q) = %v, %v", s, p, err)
		}
	}
}

func TestBackoff_DoublesToALimitAndIsHalfRandom(t *testing.T) {
	const base = 200 * time.Millisecond
	for n, want := range []time.Duration{base, 2 * base, 4 * base, 8 * base, 16 * base, maxPause, maxPause} {
		if low, high := backoff(base, n, 0), backoff(base, n, 1); low != want/2 || high != want {
			t.Errorf("retry %d: %v to %v, want %v to %v", n, low, high, want/2, want)
		}
	}
	if got := backoff(base, 1000, 0.5); got > maxPause || got <= 0 {
		t.Errorf("retry 1000: %v", got)
	}
}

func TestRetryAfter_SecondsOrDate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "99999999999": time.Hour, "999999": time.Hour,
		"Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Fri, 02 Jan 2026 03:04:00 GMT": 0,
	} {
		if got := retryAfter(in, now); got != want && in != "99999999999" {
			t.Errorf("retryAfter(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestExamine_TextsHoldNoSecretsNorURLs(t *testing.T) {
	cred := credential{username: "user", password: "hunter2", identityToken: "idtoken"}
	body := &transport.Error{StatusCode: 403, Errors: []transport.Diagnostic{
		{Code: "DENIED", Message: "for hunter2"}, {Code: "see https://x/?hunter2"},
	}}
	for _, err := range []error{
		body,
		fmt.Errorf("no token in bearer response:\n%s", `{"tok":"hunter2"}`),
		&url.Error{Op: "Get", URL: "https://x/?sig=hunter2", Err: errors.New("boom")},
		fmt.Errorf("refusing redirect to %q: %w", "https://hunter2@x/y?sig=hunter2", errors.New("no")),
		&url.Error{Op: "Get", URL: "https://a/?hunter2", Err: &url.Error{Op: "Get", URL: "https://b/?hunter2", Err: errors.New("bad idtoken " + cred.secrets()[0])}},
	} {
		text := wrap("resolve image", "docker.io/library/a", err, cred).Error()
		for _, secret := range append([]string{"sig="}, cred.secrets()...) {
			if secret != "" && strings.Contains(text, secret) {
				t.Errorf("the text shows %q: %s", secret, text)
			}
		}
	}
	if got, want := examine(body).err.Error(), "access denied by the registry (403 DENIED); check the name and the credentials for its host"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
}

func TestIdentity_TellsCredentialsApart(t *testing.T) {
	salt := []byte("salt")
	creds := []credential{
		{},
		{username: "a", password: "b"},
		{username: "ab"},
		{password: "ab"},
		{username: "a", password: "c"},
		{identityToken: "ab"},
		{registryToken: "ab"},
	}
	var seen []string
	for _, c := range creds {
		id := c.identity(salt)
		if slices.Contains(seen, id) {
			t.Errorf("%#v has the identity of another", c)
		}
		seen = append(seen, id)
	}
	if a := creds[1].identity([]byte("pepper")); a == seen[1] {
		t.Error("the identity does not depend on the salt")
	}
}

func TestBasic_HidesThePassword(t *testing.T) {
	b := Basic{"user", "hunter2"}
	r := Rights{Additional: map[string]Basic{"h": b}}
	for _, s := range []string{fmt.Sprint(b), fmt.Sprintf("%+v", b), fmt.Sprintf("%#v", b), fmt.Sprintf("%+v", r), fmt.Sprintf("%#v", r)} {
		if strings.Contains(s, "hunter2") {
			t.Errorf("the password is shown: %s", s)
		}
	}
}

func TestParseManifest_RefusesWhatIsBothImageAndIndex(t *testing.T) {
	raw := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"config":{},"layers":[]}`)
	if _, err := parseManifest(raw, string(types.OCIManifestSchema1)); examine(err).kind != Unsupported {
		t.Errorf("error %v, want Unsupported", err)
	}
	if m, err := parseManifest(raw, "application/json; charset=utf-8"); err != nil || m.index == nil {
		t.Errorf("without a telling Content-Type: %v, %v, want an index", m, err)
	}
	for _, raw := range []string{``, `[]`, `{}`, `{"schemaVersion":1,"mediaType":"application/vnd.docker.distribution.manifest.v1+json"}`} {
		if _, err := parseManifest([]byte(raw), ""); examine(err).kind != Unsupported {
			t.Errorf("%q: error %v, want Unsupported", raw, err)
		}
	}
}

func TestHumanSize(t *testing.T) {
	for in, want := range map[int64]string{0: "0 B", 999: "999 B", 1500: "1.5 kB", 29_300_000: "29.3 MB", 4_200_000_000: "4.2 GB", 5_000_000_000_000: "5000.0 GB"} {
		if got := humanSize(in); got != want {
			t.Errorf("humanSize(%d) = %q, want %q", in, got, want)
		}
	}
}

// TestSafeText_IsWhole expects a truncated text to end between two characters, because the
// replicated log accepts only valid UTF-8. Certificates with long names cause such texts.
func TestSafeText_IsWhole(t *testing.T) {
	for n := range 4 {
		name := strings.Repeat("x", n) + strings.Repeat("€", maxSafeText)
		got := safeText(&net.OpError{Op: "dial", Err: errors.New(name)}, nil)
		if !utf8.ValidString(got) || len(got) > maxSafeText || len(got) < maxSafeText-3 {
			t.Errorf("%d bytes: %q", len(got), got)
		}
	}
}

// TestLogins_AreBounded fills the login cache, as requests with many hosts would.
func TestLogins_AreBounded(t *testing.T) {
	f := newCallGroup()
	defer f.close()
	l, err := newLoginCache(f)
	if err != nil {
		t.Fatal(err)
	}
	login := func(context.Context) (Login, error) { return Login{Username: "u", Password: "p"}, nil }
	for i := range 2 * maxLogins {
		if c, err := l.get(t.Context(), fmt.Sprint(i), login); err != nil || c.username != "u" {
			t.Fatal(c.username, err)
		}
	}
	if n := l.entries.Len(); n != maxLogins {
		t.Errorf("%d logins are cached, want %d", n, maxLogins)
	}
	l.forget(credential{username: "u", password: "p"})
	if n := l.entries.Len(); n != 0 {
		t.Errorf("%d refused logins are still cached", n)
	}
}
