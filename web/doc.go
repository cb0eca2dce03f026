// Package web serves the web page: builds with their logs, the queue, the
// nodes, the cached references. It is a client of the public API like any
// other, with the rights of a caller that shows nothing; it changes nothing and
// answers only GET and HEAD.
//
// Below Path it answers
//
//	GET ui/                                    the page and its files
//	GET ui/api/config                          this node, and the URLs of all
//	GET ui/api/builds                          ListBuilds
//	GET ui/api/builds/ID                       BuildStatus
//	GET ui/api/builds/ID/logs?attempt=&offset= BuildLogs, a stream
//	GET ui/api/builds/ID/log.txt?attempt=      the log as a file
//	GET ui/api/nodes                           ListNodes
//	GET ui/api/cache                           ListCachedRefs
//
// Answers are the messages of the API in protobuf's JSON. A stream is one JSON
// object a line: {"result": MESSAGE}, at last {"end": true} or {"error":
// {"code", "message"}}, and {} every few seconds, so that a client knows a
// connection that has died. One that stops without end or error has broken: the
// client resumes it, at any node.
//
// The page needs no network but this port, and no script or style that is not a
// file of its own (static/): the policy in headers.go has the browser enforce
// it.
package web
