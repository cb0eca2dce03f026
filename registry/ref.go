package registry

import (
	"errors"
	"regexp"
	"strings"

	"github.com/distribution/reference"
)

const (
	maxRefBytes    = 1 << 10 // longer references are refused without parsing
	maxQuotedBytes = 64      // bound of a malformed reference in an error
)

// trailingDigest matches an @ with a digest at the end. Any other @ may end credentials.
var trailingDigest = regexp.MustCompile(`@sha[0-9]+:[^/@:]*$`)

// ParseRef parses a reference as Docker does: ubuntu, docker.io/ubuntu and
// index.docker.io/library/ubuntu all become docker.io/library/ubuntu. A tag beside a digest is
// dropped, because the digest alone identifies the image. A missing tag is not added. Digests must
// be SHA-256.
//
// Errors are *Error of kind Invalid. They quote at most 64 bytes of s, and nothing of a reference
// that may contain credentials.
func ParseRef(s string) (reference.Named, error) {
	if reason := malformed(s); reason != "" {
		return nil, invalidRef(s, reason)
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return nil, invalidRef(s, whyInvalid(s, err))
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return named, nil
	}
	if digested.Digest().Algorithm() != "sha256" {
		return nil, invalidRef(s, "its digest is not a sha256 digest")
	}
	canonical, err := reference.WithDigest(reference.TrimNamed(named), digested.Digest())
	if err != nil {
		return nil, invalidRef(s, whyInvalid(s, err))
	}
	return canonical, nil
}

// malformed returns the reason for which s is refused before parsing; "" for none.
func malformed(s string) string {
	switch {
	case s == "":
		return "it is empty"
	case len(s) > maxRefBytes:
		return "it is longer than 1024 bytes"
	case mayHoldCredentials(s):
		return "it looks like a URL or holds credentials; give the image's name alone, as in registry.example.com/team/image:tag"
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "it contains a control character"
	}
	return ""
}

// mayHoldCredentials reports whether s has a user info part (user:password@) or a scheme. Such a
// reference must not be quoted anywhere.
func mayHoldCredentials(s string) bool {
	name := trailingDigest.ReplaceAllString(s, "")
	return strings.Contains(name, "@") || strings.Contains(name, "://")
}

// whyInvalid returns the reason for which parsing failed. It does not use the texts of the
// reference package, because they repeat the reference at full length.
func whyInvalid(s string, err error) string {
	if _, lower := reference.ParseNormalizedNamed(strings.ToLower(s)); lower == nil {
		return "the repository must be lower case"
	}
	switch {
	case errors.Is(err, reference.ErrNameTooLong):
		return "the repository is longer than 255 bytes"
	case errors.Is(err, reference.ErrDigestInvalidFormat):
		return "its digest is malformed"
	}
	return "it is not of the form [host/]repository[:tag][@digest]"
}

func invalidRef(s, reason string) error {
	e := &Error{Kind: Invalid, Op: "parse image reference", Err: errors.New(reason)}
	if !mayHoldCredentials(s) {
		e.Ref = s[:min(len(s), maxQuotedBytes)]
	}
	return e
}

// identifier returns the digest or tag by which a registry's URL names the image.
func identifier(named reference.Named) string {
	switch n := named.(type) {
	case reference.Digested:
		return n.Digest().String()
	case reference.Tagged:
		return n.Tag()
	}
	return "latest"
}

// withDigest returns the digest form of named's repository.
func withDigest(named reference.Named, digest string) string {
	return named.Name() + "@" + digest
}
