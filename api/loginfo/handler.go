package loginfo

import (
	"context"
	"net/http"
)

// Handler returns the handler of all paths, see the comment of the package.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, base := range []string{root + "{build}/_supervisor/v1/", "/_supervisor/v1/"} {
		mux.HandleFunc("GET "+base+"status/tasks", s.tasks)
		mux.HandleFunc("GET "+base+"terminal/listen/{task}", s.listen)
		mux.HandleFunc("GET "+base+"task/listen/{task}/output", s.listen)
		mux.HandleFunc(base+"supervisor.StatusService/TasksStatus", s.method(s.watchTasks))
		mux.HandleFunc(base+"supervisor.TaskService/ListenToOutput", s.method(s.listenToOutput))
	}
	return mux
}

// method returns the handler of a grpc-web method over both transports.
func (s *Server) method(serve func(context.Context, *call) error) http.HandlerFunc {
	socket, plain := s.webSocket(serve), s.post(serve)
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			plain(w, r)
		} else {
			socket(w, r)
		}
	}
}
