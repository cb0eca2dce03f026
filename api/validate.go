package api

import (
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Limits of the fields of one request, in bytes unless the comment names another unit.
const (
	maxRef       = 1024
	maxText      = 4096 // URLs, paths, versions
	maxRequestID = 128
	maxRequester = 256
	maxLabels    = 32 // labels
	maxLabelKey  = 63
	maxLabelVal  = 256
	maxHosts     = 64  // hosts, and credentials
	maxOptions   = 128 // entries of each list or map of options
)

var validDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// checkText checks a value of one line: its length in bytes, UTF-8, no control characters. The
// error never contains the value, because it may hold a secret.
func checkText(field, s string, limit int) error {
	switch {
	case len(s) > limit:
		return invalidf("%s is %d bytes long, at most %d are allowed", field, len(s), limit)
	case !utf8.ValidString(s):
		return invalidf("%s is not valid UTF-8", field)
	case strings.ContainsFunc(s, unicode.IsControl):
		return invalidf("%s contains a control character (a newline or NUL, for instance)", field)
	}
	return nil
}

// checkRef checks that an image reference is a non-empty value of one line. The registry client
// parses it.
func checkRef(field, s string) error {
	if s == "" {
		return invalidf("%s is empty: name an image", field)
	}
	return checkText(field, s, maxRef)
}

// checkPath checks that a path is relative and does not leave the context.
func checkPath(field, p string) error {
	if err := checkText(field, p, maxText); err != nil {
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

// checkGitURI checks that git can clone a URI. It refuses a URI with a credential, because the URI
// is stored, shown and hashed.
func checkGitURI(field, uri string) error {
	if uri == "" {
		return invalidf("%s is empty: name a git repository", field)
	}
	if err := checkText(field, uri, maxText); err != nil {
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

// checkLabels checks the labels of a build.
func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return invalidf("labels: %d are given, at most %d are allowed", len(labels), maxLabels)
	}
	for k, v := range labels {
		if k == "" {
			return invalidf("labels: a key is empty")
		}
		if err := checkText("labels: a key", k, maxLabelKey); err != nil {
			return err
		}
		if err := checkText("labels: the value of "+k, v, maxLabelVal); err != nil {
			return err
		}
	}
	return nil
}

// checkDockerfileSource checks a Dockerfile source and its context.
func checkDockerfileSource(d *imagebuilderv1.DockerfileSource) error {
	if err := checkPath("dockerfile_path", d.GetDockerfilePath()); err != nil {
		return err
	}
	if err := checkPath("context_path", d.GetContextPath()); err != nil {
		return err
	}
	if err := checkText("dockerfile_version", d.GetDockerfileVersion(), maxText); err != nil {
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

// checkOptions checks the options that the runtime gets.
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
			if err := checkText(name, v, maxRef); err != nil {
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
		return checkRef("sbom_generator", g)
	}
	return nil
}

// checkDownload checks a context of downloaded files.
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

// checkGit checks a git context.
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
	if err := checkText("clone_target", g.GetCloneTarget(), maxText); err != nil {
		return err
	}
	return checkPath("checkout_location", g.GetCheckoutLocation())
}

// cleanHosts returns a list of hosts in lower case, sorted and without duplicates.
func cleanHosts(hosts ...string) ([]string, error) {
	set := map[string]bool{}
	for _, h := range hosts {
		if h = strings.ToLower(strings.TrimSpace(h)); h == "" {
			continue
		}
		if err := checkText("a registry host", h, maxLabelVal); err != nil {
			return nil, err
		}
		set[h] = true
	}
	if len(set) > maxHosts {
		return nil, invalidf("%d registry hosts are given, at most %d are allowed", len(set), maxHosts)
	}
	return slices.Sorted(maps.Keys(set)), nil
}
