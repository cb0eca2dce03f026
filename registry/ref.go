package registry

import (
	"errors"
	"regexp"
	"strings"

	"github.com/distribution/reference"
)

const (
	maxRefBytes    = 1 << 10 // longer references are refused unread
	maxQuotedBytes = 64      // of a malformed reference, in errors
)

// trailingDigest is what may follow an @ that is not the end of credentials.
var trailingDigest = regexp.MustCompile(`@sha[0-9]+:[^/@:]*$`)

// ParseRef parses a reference as Docker does: ubuntu, docker.io/ubuntu and
// index.docker.io/library/ubuntu are all docker.io/library/ubuntu. A tag
// beside a digest is dropped, as the digest alone says which image it is; a
// missing tag is not added. Digests are SHA-256.
//
// Errors are *Error of kind Invalid. They quote at most 64 bytes, and nothing
// at all of a reference that looks as if it held credentials.
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

// malformed answers why s is refused before it is parsed, or nothing.
func malformed(s string) string {
	switch {
	case s == "":
		return "it is empty"
	case len(s) > maxRefBytes:
		return "it is longer than 1024 bytes"
	case mayHoldCredentials(s):
		return "it looks like a URL or holds credentials; give the image's name alone, as in registry.example.com/team/image:tag"
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "it holds a control character"
	}
	return ""
}

// mayHoldCredentials reports whether s has a user info part (user:password@)
// or a scheme. Such a reference must not be quoted anywhere.
func mayHoldCredentials(s string) bool {
	name := trailingDigest.ReplaceAllString(s, "")
	return strings.Contains(name, "@") || strings.Contains(name, "://")
}

// whyInvalid has texts of its own: those of the reference package repeat the
// reference at any length.
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

// identifier is what a registry's URL names the image by: digest or tag.
func identifier(named reference.Named) string {
	switch n := named.(type) {
	case reference.Digested:
		return n.Digest().String()
	case reference.Tagged:
		return n.Tag()
	}
	return "latest"
}

// withDigest renders the digest form of named's repository.
func withDigest(named reference.Named, digest string) string {
	return named.Name() + "@" + digest
}
