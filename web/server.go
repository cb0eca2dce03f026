package web

import (
	"context"
	"log/slog"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

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
