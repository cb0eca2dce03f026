package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

var acceptManifests = strings.Join([]string{
	string(types.OCIManifestSchema1), string(types.DockerManifestSchema2),
	string(types.OCIImageIndex), string(types.DockerManifestList),
}, ", ")

// manifest is a manifest as the registry stores it. Exactly one of image and index is set.
type manifest struct {
	raw       []byte
	mediaType types.MediaType
	digest    string
	image     *v1.Manifest
	index     *v1.IndexManifest
}

// blobs returns the config and the layers of an image; nil for an index.
func (m *manifest) blobs() []v1.Descriptor {
	if m.image == nil {
		return nil
	}
	return append([]v1.Descriptor{m.image.Config}, m.image.Layers...)
}

func (m *manifest) size() int64 {
	var n int64
	for _, b := range m.blobs() {
		n += b.Size
	}
	return n
}

// getManifest fetches a manifest by tag or digest. If it is fetched by digest, the digest is
// verified.
func (s *session) getManifest(ctx context.Context, identifier string) (*manifest, error) {
	req, err := s.request(ctx, http.MethodGet, "manifests/"+identifier, nil, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", acceptManifests)
	resp, err := s.do(req, http.StatusOK)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxManifestBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxManifestBytes {
		return nil, &kindError{kind: TooLarge, text: fmt.Sprintf("its manifest is larger than %d MiB", maxManifestBytes>>20)}
	}
	m, err := parseManifest(raw, resp.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(identifier, "sha256:") && m.digest != identifier {
		return nil, &kindError{kind: Unavailable, text: fmt.Sprintf("the registry sent a manifest with digest %s", m.digest), temporary: true}
	}
	return m, nil
}

// parseManifest parses a manifest. Its type comes from the Content-Type, or from the manifest
// itself if the header names no known type. If the two disagree about image or index, the manifest
// is refused, because it would mean different things to different clients (CVE-2021-41190).
func parseManifest(raw []byte, contentType string) (*manifest, error) {
	digest, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("hash manifest: %w", err)
	}
	var said struct {
		MediaType types.MediaType `json:"mediaType"`
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		return nil, &kindError{kind: Unsupported, text: "its manifest is not JSON"}
	}
	header, _, _ := mime.ParseMediaType(contentType)
	m := &manifest{raw: raw, digest: digest.String(), mediaType: types.MediaType(header)}
	if !m.mediaType.IsImage() && !m.mediaType.IsIndex() {
		m.mediaType = said.MediaType
	} else if said.MediaType != "" && said.MediaType.IsIndex() != m.mediaType.IsIndex() {
		return nil, &kindError{kind: Unsupported, text: "its manifest claims to be both an image and an index"}
	}
	switch {
	case m.mediaType.IsIndex():
		m.index, err = v1.ParseIndexManifest(bytes.NewReader(raw))
	case m.mediaType.IsImage():
		m.image, err = v1.ParseManifest(bytes.NewReader(raw))
	case isSchema1(m.mediaType, raw):
		return nil, &kindError{kind: Unsupported, text: "it is a Docker image of schema 1, which registries and runtimes no longer support; pull it with an old client and push it again"}
	default:
		return nil, &kindError{kind: Unsupported, text: "it is neither an OCI image, nor a Docker image of schema 2, nor an index of such images"}
	}
	if err != nil {
		return nil, &kindError{kind: Unsupported, text: "its manifest is malformed"}
	}
	for _, b := range m.blobs() {
		if b.Digest.Algorithm != "sha256" || b.Size < 0 {
			return nil, &kindError{kind: Unsupported, text: "its manifest names a blob without a sha256 digest or a size"}
		}
	}
	return m, nil
}

// isSchema1 recognizes the manifest format from before 2016. Registries may send it although the
// request does not accept it.
func isSchema1(mediaType types.MediaType, raw []byte) bool {
	if mediaType == types.DockerManifestSchema1 || mediaType == types.DockerManifestSchema1Signed {
		return true
	}
	var m struct {
		SchemaVersion int `json:"schemaVersion"`
	}
	return json.Unmarshal(raw, &m) == nil && m.SchemaVersion == 1
}

// described is the information about a manifest that HEAD returns.
type described struct {
	digest    string
	mediaType string
}

// errNoDigest reports a response to HEAD without a digest.
var errNoDigest = &kindError{kind: Unsupported, text: "the registry does not return the digest"}

// errNoHead reports that a registry does not support HEAD.
var errNoHead = &kindError{kind: Unsupported, text: "the registry does not support HEAD"}

func (s *session) headManifest(ctx context.Context, identifier string) (described, error) {
	req, err := s.request(ctx, http.MethodHead, "manifests/"+identifier, nil, nil)
	if err != nil {
		return described{}, err
	}
	req.Header.Set("Accept", acceptManifests)
	resp, err := s.do(req, http.StatusOK)
	if err != nil {
		switch examine(err).status {
		case http.StatusMethodNotAllowed, http.StatusNotImplemented:
			return described{}, errNoHead
		}
		return described{}, err
	}
	defer discard(resp)
	digest, err := v1.NewHash(resp.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return described{}, errNoDigest
	}
	if strings.HasPrefix(identifier, "sha256:") && digest.String() != identifier {
		return described{}, &kindError{kind: Unavailable, text: fmt.Sprintf("the registry returned the digest %s for the manifest", digest)}
	}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return described{digest.String(), mediaType}, nil
}

// putManifest stores a manifest under a tag or its digest.
func (s *session) putManifest(ctx context.Context, identifier string, m *manifest) error {
	req, err := s.request(ctx, http.MethodPut, "manifests/"+identifier, nil, bytes.NewReader(m.raw))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", string(m.mediaType))
	resp, err := s.do(req, http.StatusCreated, http.StatusOK, http.StatusAccepted)
	if err != nil {
		return err
	}
	defer discard(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != m.digest {
		return &kindError{kind: Unsupported, text: fmt.Sprintf("the registry stored the manifest %s as %.80q", m.digest, got)}
	}
	return nil
}
