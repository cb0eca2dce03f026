package web

import (
	"context"
	"embed"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Path is the path of the page.
const Path = "/ui/"

//go:embed static
var files embed.FS

// API is the part of the native API that the page reads; builds.Native implements it. Calls carry
// no identity.
type API interface {
	ListBuilds(context.Context, *imagebuilderv1.ListBuildsRequest) (*imagebuilderv1.ListBuildsResponse, error)
	BuildStatus(context.Context, *imagebuilderv1.BuildStatusRequest) (*imagebuilderv1.BuildStatusResponse, error)
	BuildLogs(*imagebuilderv1.BuildLogsRequest, imagebuilderv1.ImageBuilder_BuildLogsServer) error
	ListNodes(context.Context, *imagebuilderv1.ListNodesRequest) (*imagebuilderv1.ListNodesResponse, error)
	ListCachedRefs(context.Context, *imagebuilderv1.ListCachedRefsRequest) (*imagebuilderv1.ListCachedRefsResponse, error)
}

// Options configure the page.
type Options struct {
	// API is the API that the page reads. Required.
	API API
	// Node is the name of this node.
	Node string
	// Nodes are the origins (http://host:port) of the page on all nodes. The pages of these origins
	// may read from this node, and the page of this node from them.
	Nodes []string
	// Streams ends all streams when it ends; browsers continue on another node. Required.
	Streams context.Context
	// Log is not used.
	Log *slog.Logger
}

// maxStreams is the greatest number of streams that a node serves to browsers at the same time.
const maxStreams = 1000

// server is the handler of the page.
type server struct {
	Options
	files   map[string]file
	policy  string
	streams chan struct{} // contains one element for each open stream
}

// file is one file of the page.
type file struct {
	content     []byte
	contentType string
	etag        string
}

// New returns the handler for everything below Path.
func New(o Options) http.Handler {
	s := &server{Options: o, files: map[string]file{}, policy: policy(o.Nodes), streams: make(chan struct{}, maxStreams)}
	static, err := fs.Sub(files, "static")
	if err == nil {
		err = s.load(static)
	}
	if err != nil {
		panic(err) // the binary does not contain the files of the page
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ui/api/config", s.config)
	mux.HandleFunc("GET /ui/api/builds", s.list)
	mux.HandleFunc("GET /ui/api/builds/{id}", s.status)
	mux.HandleFunc("GET /ui/api/builds/{id}/logs", s.logs)
	mux.HandleFunc("GET /ui/api/builds/{id}/log.txt", s.logFile)
	mux.HandleFunc("GET /ui/api/nodes", s.nodes)
	mux.HandleFunc("GET /ui/api/cache", s.cache)
	mux.HandleFunc("GET /ui/{file...}", s.file)
	return s.guard(mux)
}

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
