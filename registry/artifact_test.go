package registry_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

func putFile(t *testing.T, c *registry.Client, ref, text string) (digest string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(text))
	digest = "sha256:" + hex.EncodeToString(sum[:])
	if err := c.PutFile(t.Context(), ref, path, digest, registry.Rights{}); err != nil {
		t.Fatal(err)
	}
	return digest
}

func readFile(t *testing.T, c *registry.Client, ref string) string {
	t.Helper()
	rc, err := c.OpenFile(t.Context(), ref, registry.Rights{})
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	raw, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Test_File_AgeAndDeletion stores a file and touches it, which makes a second manifest. Deleting
// the first manifest keeps the file; deleting the second removes it.
func Test_File_AgeAndDeletion(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	c := newClient(t, registry.Options{AllowLoopback: true})
	ref := reg.Addr + "/files:one"
	begin := time.Now().Truncate(time.Second)
	putFile(t, c, ref, "content")
	first, err := c.StatFile(t.Context(), ref, registry.Rights{})
	if err != nil || first.Created.Before(begin) || time.Since(first.Created) > time.Minute {
		t.Fatal(first, err)
	}
	if _, err := c.StatFile(t.Context(), reg.Addr+"/files:none", registry.Rights{}); registry.KindOf(err) != registry.NotFound {
		t.Errorf("a missing file: %v", err)
	}
	var touched registry.Stored
	for deadline := time.Now().Add(10 * time.Second); touched.Digest == "" || touched.Digest == first.Digest; { // the annotation has a resolution of a second
		if err := c.TouchFile(t.Context(), ref, registry.Rights{}); err != nil || time.Now().After(deadline) {
			t.Fatal(err)
		}
		if touched, err = c.StatFile(t.Context(), ref, registry.Rights{}); err != nil {
			t.Fatal(err)
		}
	}
	if !touched.Created.After(first.Created) {
		t.Errorf("created %s, touched %s", first.Created, touched.Created)
	}
	if err := c.DeleteManifest(t.Context(), reg.Addr+"/files@"+first.Digest, registry.Rights{}); err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, c, ref); got != "content" {
		t.Errorf("the touched file holds %q", got)
	}
	if err := c.DeleteManifest(t.Context(), reg.Addr+"/files:one", registry.Rights{}); registry.KindOf(err) != registry.Invalid {
		t.Errorf("delete by tag: %v", err)
	}
	if err := c.DeleteManifest(t.Context(), reg.Addr+"/files@"+touched.Digest, registry.Rights{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.StatFile(t.Context(), ref, registry.Rights{}); registry.KindOf(err) != registry.NotFound {
		t.Errorf("the file after its deletion: %v", err)
	}
}

// Test_File_OutlivesBrokenAnswers stores and reads a file while each request at first gets a
// partial response, fails, or stalls. Both operations must succeed.
func Test_File_OutlivesBrokenAnswers(t *testing.T) {
	content := strings.Repeat("line of a file\n", 1<<10)
	for name, spoil := range map[string]func(*registrytest.Proxy, registrytest.Matcher){
		"breaks off": func(p *registrytest.Proxy, m registrytest.Matcher) { p.Reset(m, 2, 10) },
		"fails":      func(p *registrytest.Proxy, m registrytest.Matcher) { p.Fail(m, 2, http.StatusBadGateway) },
		"stands still": func(p *registrytest.Proxy, m registrytest.Matcher) {
			p.HangInBody(registrytest.Method(http.MethodGet, m), 1, 10)
		},
		"says nothing": func(p *registrytest.Proxy, m registrytest.Matcher) { p.Hang(m, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			reg := registrytest.Start(t, registrytest.Options{})
			proxy := registrytest.NewProxy(t, reg)
			c := newClient(t, registry.Options{Timeout: 2 * time.Second})
			if name == "says nothing" {
				spoil(proxy, registrytest.Uploads)
			}
			if name != "stands still" {
				spoil(proxy, registrytest.Method(http.MethodPut, registrytest.All))
			}
			putFile(t, c, proxy.Addr+"/files:one", content)
			proxy.Heal()
			spoil(proxy, registrytest.Manifests)
			spoil(proxy, registrytest.Blobs)
			if got := readFile(t, c, proxy.Addr+"/files:one"); got != content {
				t.Errorf("%d bytes are read, not the %d that were stored", len(got), len(content))
			}
		})
	}
}

// Test_File_WrongBytesAreNotTheFile expects a read to fail if the registry changed the bytes.
func Test_File_WrongBytesAreNotTheFile(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.NewProxy(t, reg)
	c := newClient(t, registry.Options{})
	putFile(t, c, proxy.Addr+"/files:one", "content")
	proxy.Corrupt(registrytest.Blobs, -1)
	rc, err := c.OpenFile(t.Context(), proxy.Addr+"/files:one", registry.Rights{})
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	_, err = io.ReadAll(rc)
	wantKind(t, err, registry.Unavailable)
}

func Test_DeleteManifest_Forbidden(t *testing.T) {
	for _, status := range []int{http.StatusMethodNotAllowed, http.StatusForbidden, http.StatusBadRequest} {
		reg := registrytest.Start(t, registrytest.Options{})
		proxy := registrytest.NewProxy(t, reg)
		c := newClient(t, registry.Options{AllowLoopback: true})
		putFile(t, c, reg.Addr+"/files:one", "content")
		st, err := c.StatFile(t.Context(), reg.Addr+"/files:one", registry.Rights{})
		if err != nil {
			t.Fatal(err)
		}
		proxy.Fail(registrytest.Method(http.MethodDelete, registrytest.Manifests), 1, status)
		err = c.DeleteManifest(t.Context(), proxy.Addr+"/files@"+st.Digest, registry.Rights{})
		if !registry.Forbids(err) {
			t.Errorf("status %d: %v", status, err)
		}
		// The next deletion is permitted.
		if err := c.DeleteManifest(t.Context(), proxy.Addr+"/files@"+st.Digest, registry.Rights{}); err != nil {
			t.Errorf("after status %d: %v", status, err)
		}
	}
}

func Test_Tags_Pages(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	proxy := registrytest.NewProxy(t, reg)
	c := newClient(t, registry.Options{AllowLoopback: true})
	var want []string
	for i := range 7 {
		putFile(t, c, fmt.Sprintf("%s/files:a-%d", reg.Addr, i), "content")
		putFile(t, c, fmt.Sprintf("%s/files:b-%d", reg.Addr, i), "content")
		want = append(want, fmt.Sprintf("b-%d", i))
	}
	// Let the registry return pages of three tags.
	proxy.On(func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/tags/list") }, 100, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		q := r.URL.Query()
		q.Set("n", "3")
		r.URL.RawQuery = q.Encode()
		next.ServeHTTP(w, r)
	})
	got, err := c.Tags(t.Context(), proxy.Addr+"/files", "b-", registry.Rights{})
	slices.Sort(got)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := c.Tags(t.Context(), reg.Addr+"/nothing", "", registry.Rights{}); registry.KindOf(err) != registry.NotFound {
		t.Errorf("a missing repository: %v", err)
	}
}
