package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"strings"
)

//go:embed static
var files embed.FS

// contentTypes are the content types by file name extension. Browsers may not guess them (nosniff).
var contentTypes = map[string]string{
	"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml",
}

// load reads the files of the page.
func (s *server) load(static fs.FS) error {
	return fs.WalkDir(static, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(static, path)
		if err != nil {
			return err
		}
		s.files[path] = file{raw, contentTypes[path[strings.LastIndex(path, ".")+1:]], etag(raw)}
		return nil
	})
}

// etag returns the entity tag of a file.
func etag(content []byte) string {
	sum := sha256.Sum256(content)
	return `"` + hex.EncodeToString(sum[:12]) + `"`
}

// file serves a file of the page.
func (s *server) file(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	if name == "" {
		name = "index.html"
	}
	f, ok := s.files[name]
	if !ok {
		http.Error(w, "the web page has no file "+name, http.StatusNotFound)
		return
	}
	h := w.Header()
	// Browsers revalidate each file before use, so that they never run a cached script of another
	// version.
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", f.etag)
	h.Set("Content-Type", f.contentType)
	if r.Header.Get("If-None-Match") == f.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(f.content)
}
