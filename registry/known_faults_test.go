package registry_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/test/knownfault"
)

// immutableTags is a registry that refuses the second PUT of a tag with 412, as Harbor does.
type immutableTags struct {
	mu        sync.Mutex
	manifests map[string]storedManifest // key: digest or tag
	loseNext  bool                      // store the next tag, and close the connection instead of responding
}

type storedManifest struct{ mediaType, body, digest string }

func startImmutableTags(t testing.TB) (s *immutableTags, host string) {
	t.Helper()
	s = &immutableTags{manifests: map[string]storedManifest{}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return s, strings.TrimPrefix(srv.URL, "http://")
}

// put stores a manifest by its digest, which it returns.
func (s *immutableTags) put(mediaType, body string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := sha256.Sum256([]byte(body))
	digest := "sha256:" + hex.EncodeToString(sum[:])
	s.manifests[digest] = storedManifest{mediaType, body, digest}
	return digest
}

func (s *immutableTags) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, id, ok := strings.Cut(r.URL.Path, "/manifests/")
	m, found := s.manifests[id]
	switch {
	case r.URL.Path == "/v2/":
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPut && found:
		w.WriteHeader(http.StatusPreconditionFailed)
		fmt.Fprint(w, `{"errors":[{"code":"PRECONDITION","message":"the tag is configured as immutable"}]}`)
	case r.Method == http.MethodPut:
		body, _ := io.ReadAll(r.Body)
		sum := sha256.Sum256(body)
		digest := "sha256:" + hex.EncodeToString(sum[:])
		s.manifests[id] = storedManifest{r.Header.Get("Content-Type"), string(body), digest}
		if s.loseNext {
			s.loseNext = false
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Docker-Content-Digest", digest)
		w.WriteHeader(http.StatusCreated)
	case !found:
		w.WriteHeader(http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", m.mediaType)
		w.Header().Set("Docker-Content-Digest", m.digest)
		_, _ = io.WriteString(w, m.body)
	}
}

const (
	imageType = "application/vnd.oci.image.manifest.v1+json"
	imageBody = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]}`
	indexType = "application/vnd.oci.image.index.v1+json"
	indexBody = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` +
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%[1]s","size":%[2]d,"platform":{"os":"linux","architecture":"arm64"}},` +
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%[1]s","size":%[2]d,"platform":{"os":"unknown","architecture":"unknown"}}]}`
)

// Test_KnownFault_TagOnAnImmutableRegistry loses the response to the PUT of an immutable tag. The retry
// must find that the tag is right.
func Test_KnownFault_TagOnAnImmutableRegistry(t *testing.T) {
	knownfault.Run(t, "part 7: the response to the PUT of an immutable tag is lost", func(t knownfault.TB) {
		s, host := startImmutableTags(t)
		digest := s.put(imageType, imageBody)
		s.loseNext = true
		c := newClient(t, registry.Options{})
		err := c.Tag(t.Context(), host+"/r@"+digest, host+"/r:t", all)
		img, herr := c.AwaitHead(t.Context(), host+"/r:t", all)
		if herr != nil || img.Digest != digest {
			t.Fatalf("the registry has not stored the tag: %s %v", img.Digest, herr)
		}
		if err != nil {
			t.Errorf("the tag is right, but Tag fails: %v", err)
		}
	})
}

// Test_KnownFault_IndexOfAnArmDaemon resolves the digest of an index that a BuildKit daemon on arm64
// pushed: it has one image, for arm64, and its attestation. No platform is requested, as after a
// build for the daemon's own platform.
func Test_KnownFault_IndexOfAnArmDaemon(t *testing.T) {
	knownfault.Run(t, "part 7: an image that a daemon on arm64 pushed cannot be resolved", func(t knownfault.TB) {
		s, host := startImmutableTags(t)
		digest := s.put(indexType, fmt.Sprintf(indexBody, s.put(imageType, imageBody), len(imageBody)))
		c := newClient(t, registry.Options{})
		_, err := c.Resolve(t.Context(), host+"/r@"+digest, "", all)
		if err != nil {
			t.Errorf("the pushed image cannot be resolved: %v", err)
		}
	})
}
