package proxy

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
)

// Purposes of a name.
const (
	usePull    = "pull"
	usePush    = "push"
	useCache   = "cache"
	useContext = "context"
)

// repository is a repository of a registry.
type repository struct{ host, path string }

func (r repository) String() string { return r.host + "/" + r.path }

// parseRepository parses host/path. It expands short names as Docker does.
func parseRepository(s string) (repository, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return repository{}, err
	}
	return repository{reference.Domain(named), reference.Path(named)}, nil
}

// Names translates image names to names at the proxy with this address (host:port).
type Names struct{ Addr string }

// Pull translates the name of a base image. A name of the proxy is returned unchanged.
func (n Names) Pull(ref string) (string, error) { return n.name(usePull, ref) }

// Push translates the name of an image or repository that the build pushes to.
func (n Names) Push(ref string) (string, error) { return n.name(usePush, ref) }

// Cache translates the name of an image of the build cache.
func (n Names) Cache(ref string) (string, error) { return n.name(useCache, ref) }

// Context translates the name of an uploaded context.
func (n Names) Context(ref string) (string, error) { return n.name(useContext, ref) }

func (n Names) name(use, ref string) (string, error) {
	if strings.HasPrefix(ref, n.Addr+"/") {
		return ref, nil
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("%q is not an image reference: %w", ref, err)
	}
	host := encodeHost(reference.Domain(named))
	if !hostPattern.MatchString(host) {
		return "", fmt.Errorf("the registry host %q cannot be reached from a pod: use a lower-case DNS name or an IPv4 address", reference.Domain(named))
	}
	out := n.Addr + "/" + use + "/" + host + "/" + reference.Path(named)
	if t, ok := named.(reference.Tagged); ok {
		out += ":" + t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		out += "@" + d.Digest().String()
	}
	return out, nil
}

// Plain replaces the names of the proxy in a text by the original names.
func (n Names) Plain(text string) string {
	if !strings.Contains(text, n.Addr+"/") {
		return text
	}
	pattern := regexp.MustCompile(regexp.QuoteMeta(n.Addr) + `/(?:` + strings.Join([]string{usePull, usePush, useCache, useContext}, "|") + `)/([a-z0-9._-]+)/`)
	return pattern.ReplaceAllStringFunc(text, func(s string) string {
		host, _ := decodeHost(pattern.FindStringSubmatch(s)[1])
		return host + "/"
	})
}

// hostPattern matches encoded hosts, which are a component of a repository path. Host names contain
// no underscore, so that two underscores can stand for the colon of the port.
var hostPattern = regexp.MustCompile(`^[a-z0-9]+([.-]+[a-z0-9]+)*(__[0-9]+)?$`)

func encodeHost(host string) string { return strings.Replace(host, ":", "__", 1) }

func decodeHost(s string) (string, bool) {
	return strings.Replace(s, "__", ":", 1), hostPattern.MatchString(s)
}

// cutDigest splits HOST/REPOSITORY@DIGEST. It also accepts, and drops, a tag.
func cutDigest(ref string) (repo, digest string) {
	named, digest, _ := strings.Cut(ref, "@")
	if i := strings.LastIndexByte(named, ':'); i > strings.LastIndexByte(named, '/') {
		named = named[:i]
	}
	return named, digest
}
