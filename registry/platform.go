package registry

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// defaultPlatform is the platform of Gitpod's workspaces (docs/gitpod-contract.md, section 6).
const defaultPlatform = "linux/amd64"

// parsePlatform parses os/architecture[/variant]; "" is linux/amd64.
func parsePlatform(s string) (v1.Platform, error) {
	if s == "" {
		s = defaultPlatform
	}
	parts := strings.Split(strings.ToLower(s), "/")
	if len(s) > maxQuotedBytes || len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return v1.Platform{}, &kindError{kind: Invalid, text: fmt.Sprintf("the platform %.64q is not of the form os/architecture[/variant]", s)}
	}
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return normalPlatform(p), nil
}

// normalPlatform replaces alternative spellings of a platform by one.
func normalPlatform(p v1.Platform) v1.Platform {
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	}
	switch {
	case p.Architecture == "arm64" && p.Variant == "v8", p.Architecture == "amd64" && p.Variant == "v1":
		p.Variant = ""
	case p.Architecture == "arm" && p.Variant == "":
		p.Variant = "v7"
	}
	return p
}

// choose returns the image of an index for a platform: the first exact match. If nothing matches,
// an entry without a platform counts as linux/amd64, as in go-containerregistry.
func choose(index *v1.IndexManifest, want v1.Platform) (v1.Descriptor, error) {
	var fallback *v1.Descriptor
	var have []string
	for i, d := range index.Manifests {
		if !d.MediaType.IsImage() {
			continue
		}
		if d.Platform == nil {
			if fallback == nil && platformName(want) == defaultPlatform {
				fallback = &index.Manifests[i]
			}
			continue
		}
		got := normalPlatform(*d.Platform)
		if matches(got, want) {
			return d, nil
		}
		if got.OS != "unknown" && len(have) < 16 { // unknown/unknown marks attestations
			have = append(have, fmt.Sprintf("%.40s", platformName(got)))
		}
	}
	if fallback != nil {
		return *fallback, nil
	}
	return v1.Descriptor{}, &kindError{kind: NotFound, text: fmt.Sprintf("it has no image for %s, only for: %s", platformName(want), strings.Join(have, ", "))}
}

// choiceReason explains for people why choose returned an entry.
func choiceReason(index *v1.IndexManifest, d v1.Descriptor) string {
	if d.Platform == nil {
		return "no entry has this platform; an entry without a platform is used"
	}
	for i := range index.Manifests {
		if index.Manifests[i].Digest == d.Digest {
			return fmt.Sprintf("entry %d of %d is the first for this platform", i+1, len(index.Manifests))
		}
	}
	return ""
}

// platforms lists the platforms of an index, at most 16.
func platforms(index *v1.IndexManifest) (out []string) {
	for _, d := range index.Manifests {
		if d.Platform != nil && d.Platform.OS != "unknown" && len(out) < 16 {
			out = append(out, fmt.Sprintf("%.40s", platformName(normalPlatform(*d.Platform))))
		}
	}
	return out
}

// matches compares OS, architecture and variant.
func matches(got, want v1.Platform) bool {
	return platformName(normalPlatform(got)) == platformName(want)
}

func platformName(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}
