package buildkit

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distribution/reference"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/util/entitlements"
)

// Build arguments that the Dockerfile frontend interprets itself.
const (
	argSyntax         = "BUILDKIT_SYNTAX"
	argCacheNamespace = "BUILDKIT_CACHE_MOUNT_NS"
)

// CacheTagPrefix is the prefix of the tags of the build cache.
const CacheTagPrefix = "cache-"

// frontend returns the attributes that the Dockerfile frontend receives.
func (s *solving) frontend(df dockerfile) (map[string]string, error) {
	d := s.w.Source.GetDockerfile()
	attrs := map[string]string{"filename": df.path}
	for k, v := range d.GetBuildArgs() {
		attrs["build-arg:"+k] = v
	}
	for k, v := range d.GetImageLabels() {
		attrs["label:"+k] = v
	}
	if d.GetTarget() != "" {
		attrs["target"] = d.GetTarget()
	}
	if len(d.GetPlatforms()) > 0 {
		attrs["platform"] = strings.Join(d.GetPlatforms(), ",")
	}
	if d.GetNoCache() {
		attrs["no-cache"] = ""
	}
	switch d.GetNetworkMode() {
	case networkNone, networkHost:
		attrs["force-network-mode"] = d.GetNetworkMode()
	}
	maps.Copy(attrs, s.attestations())
	// Only builds with the same cache key share cache mounts.
	attrs["build-arg:"+argCacheNamespace] = s.src.cacheTag() + d.GetBuildArgs()[argCacheNamespace]
	builtin, err := chooseFrontend(df.data, d.GetBuildArgs()[argSyntax], s.runtime.opts.Frontends)
	if err != nil {
		return nil, err
	}
	if builtin {
		// If cmdline is set, the frontend does not look for a syntax line.
		attrs["cmdline"] = ""
		delete(attrs, "build-arg:"+argSyntax)
	}
	if ref, err := s.cacheRef(); err != nil {
		return nil, err
	} else if ref != "" {
		imports, err := json.Marshal([]*controlapi.CacheOptionsEntry{{Type: "registry", Attrs: map[string]string{"ref": ref}}})
		if err != nil {
			return nil, fmt.Errorf("describe the build cache: %w", err)
		}
		attrs["cache-imports"] = string(imports)
	}
	return attrs, nil
}

// attestations returns the attributes that request attestations. The daemon makes the provenance;
// the frontend has the image of the generator make the SBOM.
func (s *solving) attestations() map[string]string {
	d := s.w.Source.GetDockerfile()
	attrs := map[string]string{}
	if d.GetProvenance() != "" {
		attrs["attest:provenance"] = "mode=" + d.GetProvenance()
	}
	if d.GetSbomGenerator() != "" {
		attrs["attest:sbom"] = "generator=" + d.GetSbomGenerator()
	}
	return attrs
}

// chooseFrontend reports whether to use the frontend that is built into the daemon. It returns
// false if the image that the build argument or the Dockerfile names is in allowed, and a failure
// of the user if the image is not permitted.
func chooseFrontend(data []byte, arg string, allowed []string) (builtin bool, err error) {
	image, _, _ := strings.Cut(strings.TrimSpace(arg), " ")
	if image == "" {
		ref, _, _, ok := parser.DetectSyntax(data)
		if !ok {
			return true, nil
		}
		image = ref
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false, userFailure(fmt.Errorf("the syntax %q is not an image: %w", image, err))
	}
	listed := slices.ContainsFunc(allowed, func(a string) bool {
		n, err := reference.ParseNormalizedNamed(a)
		return err == nil && (n.String() == named.String() || reference.IsNameOnly(n) && n.Name() == named.Name())
	})
	switch {
	case listed:
		return false, nil
	case named.Name() == "docker.io/docker/dockerfile", named.Name() == "docker.io/docker/dockerfile-upstream":
		return true, nil
	}
	return false, userFailure(fmt.Errorf("the frontend %q of the syntax line is not allowed here: remove the line, use docker/dockerfile, or have it added to the allowed frontends", image))
}

// entitlements checks the network mode of the request and returns the entitlements that it needs.
func (s *solving) entitlements() ([]string, error) {
	mode := s.w.Source.GetDockerfile().GetNetworkMode()
	if mode == "" {
		mode = networkDefault
	}
	if !slices.Contains(s.runtime.opts.Networks, mode) {
		return nil, userFailure(fmt.Errorf("the network mode %q is not allowed here: use one of %s", mode, strings.Join(s.runtime.opts.Networks, ", ")))
	}
	if mode == networkHost {
		return []string{entitlements.EntitlementNetworkHost.String()}, nil
	}
	return nil, nil
}

// cacheRef returns the reference of the build cache for the cache key of the workload, or "" if
// there is no cache repository.
func (s *solving) cacheRef() (string, error) {
	if s.runtime.opts.CacheRepository == "" {
		return "", nil
	}
	ref := s.runtime.opts.CacheRepository + ":" + CacheTagPrefix + s.src.cacheTag()
	if route := s.runtime.opts.Route; route != nil {
		return route.Cache(ref)
	}
	return ref, nil
}

// ownHosts returns the registry hosts to which this install pushes.
func (s *solving) ownHosts() []string {
	var hosts []string
	for _, ref := range []string{repository(s.w.BaseRef), s.runtime.opts.CacheRepository} {
		if named, err := reference.ParseNormalizedNamed(ref); err == nil {
			hosts = append(hosts, reference.Domain(named))
		}
	}
	return hosts
}
