// Package loginfo serves the logs of builds over HTTP with the API of the supervisor of a Gitpod
// workspace. Gitpod's server and dashboard read the log of an image build from the address in
// BuildInfo.log_info. This package serves that address on every node, whichever runtime runs the
// build, while the build runs and after its end.
//
// Below the path of a build, which is Path(build), it serves
//
//	GET  _supervisor/v1/status/tasks             one JSON object
//	GET  _supervisor/v1/terminal/listen/ALIAS    a stream of JSON objects
//	GET  _supervisor/v1/task/listen/ID/output    the same stream
//	     _supervisor/v1/supervisor.StatusService/TasksStatus
//	     _supervisor/v1/supervisor.TaskService/ListenToOutput
//	                                             grpc-web, over WebSocket or
//	                                             as one HTTP request
//
// The same paths exist at the root, because some versions of Gitpod's server replace the whole path
// of the address with /_supervisor/v1. At the root the token identifies the build.
//
// Each request carries a token of the build in the header TokenHeader. The package does not read
// logs and does not listen: package api supplies the logs, and package node serves the handler.
//
// The files: info.go (the address), token.go (tokens), server.go (the server), json.go (the JSON
// calls), grpcweb.go (the grpc-web calls) over post.go and websocket.go (the transports),
// handler.go (the routes).
package loginfo
