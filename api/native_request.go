package api

import (
	"regexp"
	"strings"
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// nativeRequest validates a request of the native API.
func (s *Service) nativeRequest(req *imagebuilderv1.BuildImageRequest) (*buildRequest, error) {
	if err := checkText("request_id", req.GetRequestId(), maxRequestID); err != nil {
		return nil, err
	}
	if err := checkText("requester", req.GetRequester(), maxRequester); err != nil {
		return nil, err
	}
	if err := checkLabels(req.GetLabels()); err != nil {
		return nil, err
	}
	if err := checkNativeSource(req.GetSource()); err != nil {
		return nil, err
	}
	if err := s.checkExtraTags(req.GetSource().GetDockerfile().GetExtraTags()); err != nil {
		return nil, err
	}
	if err := checkSecrets(req); err != nil {
		return nil, err
	}
	if b := req.GetBaseImageNameResolved(); b != "" {
		if err := checkRef("base_image_name_resolved", b); err != nil {
			return nil, err
		}
	}
	timeout := s.timeout
	if req.GetTimeout() != nil {
		if err := req.GetTimeout().CheckValid(); err != nil {
			return nil, invalidf("timeout is not valid")
		}
		timeout = req.GetTimeout().AsDuration()
		if timeout < time.Second || timeout > s.maxTimeout {
			return nil, invalidf("timeout must be between 1s and %s", s.maxTimeout)
		}
	}
	rights, registry, err := s.nativeRights(req.GetAuth())
	if err != nil {
		return nil, err
	}
	return &buildRequest{
		source: req.GetSource(), rights: rights,
		secrets:   &buildsv1.Secrets{Registry: registry, Build: req.GetSecrets(), Git: req.GetGitAuth()},
		requester: req.GetRequester(), requestID: req.GetRequestId(), labels: req.GetLabels(),
		timeout: timeout, force: req.GetForce(), fresh: req.GetForce(), baseResolved: req.GetBaseImageNameResolved(),
	}, nil
}

var (
	validTag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	keyTag   = regexp.MustCompile(`^([0-9a-f]{64}|context-.*|cache-.*)$`)
)

// checkExtraTags checks that extra tags are in the base repository, and that they are not tags that
// the service uses there itself. They are pushed with the rights of the install.
func (s *Service) checkExtraTags(tags []string) error {
	for _, t := range tags {
		tag, ours := strings.CutPrefix(t, s.repos.Base+":")
		if !ours || !validTag.MatchString(tag) || keyTag.MatchString(tag) {
			return invalidf("extra_tags: %q is not allowed; use %s: and a tag of your own", t, s.repos.Base)
		}
	}
	return nil
}

// checkSecrets checks the size of the secrets, and that the request has each secret that its source
// names.
func checkSecrets(req *imagebuilderv1.BuildImageRequest) error {
	total := 0
	for id, v := range req.GetSecrets() {
		if err := checkText("secrets: an id", id, maxLabelVal); err != nil {
			return err
		}
		total += len(v)
	}
	if total > 1<<20 || len(req.GetSecrets()) > maxOptions {
		return invalidf("secrets: at most %d of 1 MiB in all are allowed", maxOptions)
	}
	for _, id := range req.GetSource().GetDockerfile().GetSecretIds() {
		if _, ok := req.GetSecrets()[id]; !ok {
			return invalidf("secrets: the source names secret %q, which the request does not give", id)
		}
	}
	if a := req.GetGitAuth(); len(a.GetUsername())+len(a.GetPassword()) > 64<<10 {
		return invalidf("git_auth is longer than 64 KiB")
	}
	return nil
}

// checkNativeSource checks a source of the native API.
func checkNativeSource(src *imagebuilderv1.Source) error {
	switch from := src.GetFrom().(type) {
	case *imagebuilderv1.Source_Ref:
		return checkRef("source.ref", from.Ref.GetRef())
	case *imagebuilderv1.Source_Dockerfile:
		return checkDockerfileSource(from.Dockerfile)
	}
	return invalidf("source is missing: give a ref or a Dockerfile")
}

// nativeRights returns the rights of a request and its registry credentials by host.
func (s *Service) nativeRights(a *imagebuilderv1.RegistryAuth) (*buildsv1.Rights, map[string]*imagebuilderv1.BasicAuth, error) {
	hosts := append([]string(nil), a.GetAllowHosts()...)
	if a.GetAllowBaseRepository() {
		hosts = append(hosts, s.repos.BaseHost)
	}
	if a.GetAllowWorkspaceRepository() {
		hosts = append(hosts, s.repos.WorkspaceHost)
	}
	clean, err := cleanHosts(hosts...)
	if err != nil {
		return nil, nil, err
	}
	if len(a.GetAdditional()) > maxHosts {
		return nil, nil, invalidf("auth.additional holds %d credentials, at most %d are allowed", len(a.GetAdditional()), maxHosts)
	}
	for host, cred := range a.GetAdditional() {
		if err := checkText("auth.additional: a host", host, maxLabelVal); err != nil {
			return nil, nil, err
		}
		if len(cred.GetUsername())+len(cred.GetPassword()) > 64<<10 {
			return nil, nil, invalidf("auth.additional: a credential is longer than 64 KiB")
		}
	}
	return &buildsv1.Rights{AllowAll: a.GetAllowAll(), Hosts: clean}, a.GetAdditional(), nil
}
