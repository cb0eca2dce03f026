package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// createdKey is the annotation with the time at which a file was stored or touched.
const createdKey = "org.opencontainers.image.created"

// remove lists the token actions that DELETE needs.
const remove = "delete,pull"

// Stored describes a file that PutFile stored.
type Stored struct {
	// Digest is the digest of the manifest, not of the file.
	Digest string
	// Created is the time at which the file was stored or touched; zero if unknown.
	Created time.Time
}

// StatFile describes the file at ref (repository:tag). Errors have type *Error, with the kind
// NotFound if there is no such file.
func (c *Client) StatFile(ctx context.Context, ref string, r Rights) (Stored, error) {
	m, t, err := c.fileManifest(ctx, ref, pull, r, false)
	if err != nil {
		return Stored{}, wrap("look up file", ref, err, t.cred)
	}
	created, _ := time.Parse(time.RFC3339, m.image.Annotations[createdKey]) // zero if the annotation is missing
	return Stored{Digest: m.digest, Created: created}, nil
}

// TouchFile sets the creation time of the file at ref (repository:tag) to now. This stores a new
// manifest for the same file. Errors have type *Error.
func (c *Client) TouchFile(ctx context.Context, ref string, r Rights) error {
	const op = "touch file"
	m, t, err := c.fileManifest(ctx, ref, push, r, false)
	if err != nil {
		return wrap(op, ref, err, t.cred)
	}
	if m.image.Annotations == nil {
		m.image.Annotations = map[string]string{}
	}
	m.image.Annotations[createdKey] = now()
	raw, err := json.Marshal(m.image)
	if err != nil {
		return wrap(op, ref, fmt.Errorf("render the manifest: %w", err), t.cred)
	}
	touched, err := parseManifest(raw, string(m.mediaType))
	if err != nil {
		return wrap(op, ref, err, t.cred)
	}
	named, err := ParseRef(ref)
	if err != nil {
		return err
	}
	if err := withTimeout(ctx, c.opts.Timeout, func(ctx context.Context) error {
		return c.run(ctx, t, func(ctx context.Context, s *session) error { return s.putManifest(ctx, identifier(named), touched) })
	}); err != nil {
		return wrap(op, ref, err, t.cred)
	}
	return nil
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

// fileManifest fetches the manifest of a stored file and returns it with the target used. If wait
// is true, it waits while the registry is not ready, until ctx ends; otherwise it is bounded by the
// client's Timeout. It uses no mirror.
func (c *Client) fileManifest(ctx context.Context, ref, actions string, r Rights, wait bool) (m *manifest, t target, err error) {
	named, err := ParseRef(ref)
	if err != nil {
		return nil, target{}, err
	}
	if t, err = c.targetOf(ctx, named, actions, r); err != nil {
		return nil, t, err
	}
	t.mirrors = nil // a file is only where this client stored it
	run := c.run
	if wait {
		run = c.retryPolicy(ref, t).run
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.Timeout)
		defer cancel()
	}
	m, err = manifestBy(ctx, run, t, identifier(named))
	if err == nil && (m.image == nil || len(m.image.Layers) != 1) {
		err = &kindError{kind: Unsupported, text: "it is not a stored file"}
	}
	return m, t, err
}

// DeleteManifest deletes the manifest ref (repository@digest) and the tags that point to it. Errors
// have type *Error, with the kind NotFound if the manifest does not exist. Many registries forbid
// deletion; Forbids recognizes the error.
func (c *Client) DeleteManifest(ctx context.Context, ref string, r Rights) error {
	const op = "delete manifest"
	named, err := ParseRef(ref)
	if err != nil {
		return err
	}
	t, err := c.targetOf(ctx, named, remove, r)
	if err != nil {
		return wrap(op, ref, err, t.cred)
	}
	if !strings.HasPrefix(identifier(named), "sha256:") {
		return wrap(op, ref, &kindError{kind: Invalid, text: "a manifest is deleted by digest, as in repository@digest"}, t.cred)
	}
	if err := withTimeout(ctx, c.opts.Timeout, func(ctx context.Context) error {
		return c.run(ctx, t, func(ctx context.Context, s *session) error {
			req, err := s.request(ctx, http.MethodDelete, "manifests/"+identifier(named), nil, nil)
			if err != nil {
				return err
			}
			resp, err := s.do(req, http.StatusAccepted, http.StatusOK, http.StatusNoContent)
			if err == nil {
				discard(resp)
			}
			return err
		})
	}); err != nil {
		return wrap(op, ref, err, t.cred)
	}
	return nil
}

// Forbids reports whether err means that the registry does not support or does not permit the
// operation, so that a retry does not help.
func Forbids(err error) bool {
	switch KindOf(err) {
	case Unauthorized, Unsupported, Invalid:
		return true
	}
	return false
}

// Tags lists the tags of a repository that begin with prefix, in no particular order. It makes one
// request per page of 1000 tags, each bounded by the client's Timeout. Errors have type *Error.
func (c *Client) Tags(ctx context.Context, repository, prefix string, r Rights) ([]string, error) {
	const op = "list tags"
	named, err := ParseRef(repository)
	if err != nil {
		return nil, err
	}
	t, err := c.targetOf(ctx, named, pull, r)
	if err != nil {
		return nil, wrap(op, repository, err, t.cred)
	}
	var found []string
	for last, more := "", true; more; {
		var page []string
		if err := withTimeout(ctx, c.opts.Timeout, func(ctx context.Context) error {
			return c.run(ctx, t, func(ctx context.Context, s *session) (err error) {
				page, last, more, err = s.tags(ctx, last)
				return err
			})
		}); err != nil {
			return nil, wrap(op, repository, err, t.cred)
		}
		for _, tag := range page {
			if strings.HasPrefix(tag, prefix) {
				found = append(found, tag)
			}
		}
	}
	return found, nil
}

// nextPage matches the Link header of a page that another page follows.
var nextPage = regexp.MustCompile(`<[^>]*\?([^>]*)>; *rel="?next"?`)

const pageSize = "1000"

// tags returns the page of the tag list that begins after last. If more is true, another page
// follows, and next is the value of last for it. After an error, next is last and more is true, so
// that the caller can repeat the call.
func (s *session) tags(ctx context.Context, last string) (page []string, next string, more bool, err error) {
	query := url.Values{"n": {pageSize}}
	if last != "" {
		query.Set("last", last)
	}
	req, err := s.request(ctx, http.MethodGet, "tags/list", query, nil)
	if err != nil {
		return nil, last, true, err
	}
	resp, err := s.do(req, http.StatusOK)
	if err != nil {
		return nil, last, true, err
	}
	defer func() { _ = resp.Body.Close() }()
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxManifestBytes)).Decode(&list); err != nil {
		return nil, last, true, &kindError{kind: Unsupported, text: "its list of tags is not JSON"}
	}
	if m := nextPage.FindStringSubmatch(resp.Header.Get("Link")); m != nil {
		q, err := url.ParseQuery(m[1])
		if next = q.Get("last"); err == nil && next != "" && next != last {
			return list.Tags, next, true, nil
		}
	}
	return list.Tags, "", false, nil
}
