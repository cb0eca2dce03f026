// Package web serves the web page: builds with their logs, the queue, the nodes, and the cached
// references. It is a client of the public API, with the rights of a caller without credentials. It
// changes nothing and accepts only GET and HEAD.
//
// Below Path it serves
//
//	GET ui/                                    the page and its files
//	GET ui/api/config                          the name of this node, and the URLs of all nodes
//	GET ui/api/builds                          ListBuilds
//	GET ui/api/builds/ID                       BuildStatus
//	GET ui/api/builds/ID/logs?attempt=&offset= BuildLogs, a stream
//	GET ui/api/builds/ID/log.txt?attempt=      the log as a file
//	GET ui/api/nodes                           ListNodes
//	GET ui/api/cache                           ListCachedRefs
//
// Responses are messages of the API in the JSON format of protobuf. A stream has one JSON object
// per line: {"result": MESSAGE} for each message, then {"end": true} or {"error": {"code",
// "message"}}. A line {} every two seconds is a heartbeat by which a client detects a broken
// connection. A stream that ends without end or error is broken; the client can resume it on any
// node.
//
// The page loads nothing from other hosts, and only the scripts and styles in static/. The policy
// in headers.go makes the browser enforce this.
package web
