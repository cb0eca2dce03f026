// Package loginfo serves the logs of builds over HTTP in the words of the
// supervisor of a Gitpod workspace. Gitpod's server and dashboard read the log
// of an image build from the address in BuildInfo.log_info; here they find it
// whatever runs the build, on every node, during the build and after it.
//
// Below the path of a build, which is Path(build), it answers
//
//	GET  _supervisor/v1/status/tasks             one JSON object
//	GET  _supervisor/v1/terminal/listen/ALIAS    JSON objects, a stream
//	GET  _supervisor/v1/task/listen/ID/output    the same
//	     _supervisor/v1/supervisor.StatusService/TasksStatus
//	     _supervisor/v1/supervisor.TaskService/ListenToOutput
//	                                             grpc-web, over WebSocket or
//	                                             as one HTTP request
//
// and the same at the root, since stored versions of Gitpod's server put
// /_supervisor/v1 in the place of the whole path; the token names the build.
//
// Requests carry the token of the build in the header of that name.
package loginfo
