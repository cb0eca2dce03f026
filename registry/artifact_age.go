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

// createdKey is the annotation that tells when a file was stored or touched.
const createdKey = "org.opencontainers.image.created"

// remove is what DELETE needs.
const remove = "delete,pull"

// Stored is what is known of a file that PutFile stored.
type Stored struct {
	// Digest is that of the manifest, not of the file.
	Digest string
	// Created is when it was stored or touched, zero if nobody knows.
	Created time.Time
}

// StatFile answers what is known of the file at ref (repository:tag). Errors
// are *Error, of kind NotFound if there is none.
func (c *Client) StatFile(ctx context.Context, ref string, r Rights) (Stored, error) {
	m, t, err := c.fileManifest(ctx, ref, pull, r, false)
	if err != nil {
		return Stored{}, wrap("look up file", ref, err, t.cred)
	}
	created, _ := time.Parse(time.RFC3339, m.image.Annotations[createdKey]) // zero if there is none
	return Stored{Digest: m.digest, Created: created}, nil
}

// TouchFile makes the file at ref (repository:tag) as new as one that is stored
// now. It is another manifest then, of the same file. Errors are *Error.
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
	if err := within(ctx, c.opts.Timeout, func(ctx context.Context) error {
		return c.asking(ctx, t, func(ctx context.Context, s *session) error { return s.putManifest(ctx, identifier(named), touched) })
	}); err != nil {
		return wrap(op, ref, err, t.cred)
	}
	return nil
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

func (c *Client) fileManifest(ctx context.Context, ref, actions string, r Rights, patient bool) (m *manifest, t target, err error) {
	named, err := ParseRef(ref)
	if err != nil {
		return nil, target{}, err
	}
	if t, err = c.targetOf(ctx, named, actions, r); err != nil {
		return nil, t, err
	}
	t.mirrors = nil // what this install has stored is where it stored it
	ask := c.asking
	if patient {
		ask = c.patience(ref, t).asking
	} else {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.Timeout)
		defer cancel()
	}
	m, err = manifestBy(ctx, ask, t, identifier(named))
	if err == nil && (m.image == nil || len(m.image.Layers) != 1) {
		err = &kindError{kind: Unsupported, text: "it is no stored file"}
	}
	return m, t, err
}

// DeleteManifest deletes the manifest ref (repository@digest) and the tags that
// name it. Errors are *Error: of kind NotFound if it is not there, of another
// where the registry forbids deletion, as many do: see Forbids.
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
		return wrap(op, ref, &kindError{kind: Invalid, text: "manifests are deleted by digest, as in repository@digest"}, t.cred)
	}
	if err := within(ctx, c.opts.Timeout, func(ctx context.Context) error {
		return c.asking(ctx, t, func(ctx context.Context, s *session) error {
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

// Forbids reports whether an error says that the registry does not do such a
// thing, for anybody or for us, so that asking again is of no use.
func Forbids(err error) bool {
	switch KindOf(err) {
	case Unauthorized, Unsupported, Invalid:
		return true
	}
	return false
}

// Tags lists the tags of a repository that begin with prefix, in no order.
// Errors are *Error.
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
		if err := within(ctx, c.opts.Timeout, func(ctx context.Context) error {
			return c.asking(ctx, t, func(ctx context.Context, s *session) (err error) {
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

// nextPage is the Link header of a list that goes on.
var nextPage = regexp.MustCompile(`<[^>]*\?([^>]*)>; *rel="?next"?`)

const pageSize = "1000"

// tags answers a page of the list of tags, and where the next one begins.
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
	defer func() { _ = resp.Body.Close() }() // it was read
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
