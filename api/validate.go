package api

import (
	"net/url"
	"path"
	"strings"

	"github.com/image-builder-ha/image-builder/builds"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Limits of what one request may carry, in bytes unless said otherwise.
const (
	maxText      = 4096 // URLs, paths, versions
	maxRequestID = 128
	maxRequester = 256
	maxLabels    = 32 // labels
	maxLabelKey  = 63
	maxLabelVal  = 256
	maxHosts     = 64 // hosts and credentials
	maxOptions   = 128
)

func checkPath(field, p string) error {
	if err := builds.CheckText(field, p, maxText); err != nil {
		return err
	}
	if path.IsAbs(p) || strings.HasPrefix(p, `\`) {
		return invalidf("%s must be relative to the context, not an absolute path", field)
	}
	for _, part := range strings.FieldsFunc(p, func(r rune) bool { return r == '/' || r == '\\' }) {
		if part == ".." {
			return invalidf("%s must not contain '..': it would leave the context", field)
		}
	}
	return nil
}

// checkGitURI accepts what git can clone and refuses credentials in it: they
// would be stored, shown and hashed.
func checkGitURI(field, uri string) error {
	if uri == "" {
		return invalidf("%s is empty: name a git repository", field)
	}
	if err := builds.CheckText(field, uri, maxText); err != nil {
		return err
	}
	if strings.HasPrefix(uri, "-") {
		return invalidf("%s must not begin with '-'", field)
	}
	if !strings.Contains(uri, "://") { // scp-like: user@host:path
		if host, _, ok := strings.Cut(uri, ":"); !ok || host == "" || strings.Contains(host, "/") {
			return invalidf("%s is neither a URL nor of the form user@host:path", field)
		}
		return nil
	}
	u, err := url.Parse(uri)
	if err != nil || u.Host == "" {
		return invalidf("%s is not a valid URL", field)
	}
	switch u.Scheme {
	case "https", "http", "git", "ssh":
	default:
		return invalidf("%s: scheme %q is not supported, use https, http, git or ssh", field, u.Scheme)
	}
	_, hasPassword := u.User.Password()
	if hasPassword || (u.User != nil && u.Scheme != "ssh") {
		return invalidf("%s contains a credential: pass it separately, it would be stored with the URL", field)
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return invalidf("labels: %d are given, at most %d are allowed", len(labels), maxLabels)
	}
	for k, v := range labels {
		if k == "" {
			return invalidf("labels: a key is empty")
		}
		if err := builds.CheckText("labels: a key", k, maxLabelKey); err != nil {
			return err
		}
		if err := builds.CheckText("labels: the value of "+k, v, maxLabelVal); err != nil {
			return err
		}
	}
	return nil
}

func checkDockerfileSource(d *imagebuilderv1.DockerfileSource) error {
	if err := checkPath("dockerfile_path", d.GetDockerfilePath()); err != nil {
		return err
	}
	if err := checkPath("context_path", d.GetContextPath()); err != nil {
		return err
	}
	if err := builds.CheckText("dockerfile_version", d.GetDockerfileVersion(), maxText); err != nil {
		return err
	}
	if err := checkOptions(d); err != nil {
		return err
	}
	switch from := d.GetContext().(type) {
	case *imagebuilderv1.DockerfileSource_Git:
		return checkGit(from.Git)
	case *imagebuilderv1.DockerfileSource_Upload:
		if !validDigest.MatchString(from.Upload.GetDigest()) {
			return invalidf("upload.digest must be sha256: and 64 hex digits")
		}
		return nil
	case *imagebuilderv1.DockerfileSource_Download:
		return checkDownload(from.Download)
	}
	return invalidf("source.dockerfile needs a context: git, upload or download")
}

// checkOptions bounds what goes to the builder.
func checkOptions(d *imagebuilderv1.DockerfileSource) error {
	for name, m := range map[string]map[string]string{"build_args": d.GetBuildArgs(), "image_labels": d.GetImageLabels()} {
		if len(m) > maxOptions {
			return invalidf("%s: %d are given, at most %d are allowed", name, len(m), maxOptions)
		}
		for k, v := range m {
			if k == "" || strings.ContainsAny(k, "=\x00\n") || len(k)+len(v) > 32<<10 {
				return invalidf("%s: a name is empty or holds '=' or a line break, or a value is longer than 32 KiB", name)
			}
		}
	}
	for name, list := range map[string][]string{
		"target": {d.GetTarget()}, "network_mode": {d.GetNetworkMode()}, "platforms": d.GetPlatforms(),
		"secret_ids": d.GetSecretIds(), "extra_tags": d.GetExtraTags(),
	} {
		if len(list) > maxOptions {
			return invalidf("%s: %d are given, at most %d are allowed", name, len(list), maxOptions)
		}
		for _, v := range list {
			if err := builds.CheckText(name, v, builds.MaxRef); err != nil {
				return err
			}
		}
	}
	switch d.GetProvenance() {
	case "", "min", "max":
	default:
		return invalidf("provenance must be min, max or empty")
	}
	if g := d.GetSbomGenerator(); g != "" {
		if strings.ContainsAny(g, "=,\"") {
			return invalidf("sbom_generator is not the name of an image")
		}
		return builds.CheckRef("sbom_generator", g)
	}
	return nil
}

func checkDownload(d *imagebuilderv1.DownloadContext) error {
	if n := len(d.GetFiles()); n == 0 || n > maxOptions {
		return invalidf("download.files: %d are given, between 1 and %d are allowed", n, maxOptions)
	}
	for _, f := range d.GetFiles() {
		u, err := url.Parse(f.GetUrl())
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || len(f.GetUrl()) > maxText {
			return invalidf("download.files: a url is not valid; use https or http, without credentials")
		}
		if !validDigest.MatchString(f.GetDigest()) {
			return invalidf("download.files: a digest is not sha256: and 64 hex digits")
		}
		if f.GetPath() == "" {
			return invalidf("download.files: a path is empty")
		}
		if err := checkPath("download.files: a path", f.GetPath()); err != nil {
			return err
		}
	}
	return checkPath("download.target_location", d.GetTargetLocation())
}

func checkGit(g *imagebuilderv1.GitContext) error {
	if err := checkGitURI("remote_uri", g.GetRemoteUri()); err != nil {
		return err
	}
	if g.GetUpstreamRemoteUri() != "" {
		if err := checkGitURI("upstream_remote_uri", g.GetUpstreamRemoteUri()); err != nil {
			return err
		}
	}
	if strings.HasPrefix(g.GetCloneTarget(), "-") {
		return invalidf("clone_target must not begin with '-'")
	}
	if len(g.GetConfig()) > maxOptions {
		return invalidf("git config: %d settings are given, at most %d are allowed", len(g.GetConfig()), maxOptions)
	}
	for k, v := range g.GetConfig() {
		if k == "" || strings.ContainsAny(k, "=\x00\r\n") || strings.ContainsAny(v, "\x00\r\n") || len(k)+len(v) > maxText {
			return invalidf("git config: a name is empty, or a setting holds a line break or is longer than %d bytes", maxText)
		}
	}
	if err := builds.CheckText("clone_target", g.GetCloneTarget(), maxText); err != nil {
		return err
	}
	return checkPath("checkout_location", g.GetCheckoutLocation())
}
