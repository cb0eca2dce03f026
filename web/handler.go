package web

import (
	"io/fs"
	"net/http"
)

// Path is the path of the page.
const Path = "/ui/"

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
