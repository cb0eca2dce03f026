package node

import (
	"context"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing/otlp"
)

// tracedCalls are the calls that begin a trace or continue that of their caller: those that create,
// resolve or end builds. Reads of builds and logs are frequent, and would only add noise to the
// traces.
var tracedCalls = []string{
	imagebuilderv1.ImageBuilder_BuildImage_FullMethodName,
	imagebuilderv1.ImageBuilder_UploadContext_FullMethodName,
	imagebuilderv1.ImageBuilder_CancelBuild_FullMethodName,
	imagebuilderv1.ImageBuilder_ResolveBaseImage_FullMethodName,
	imagebuilderv1.ImageBuilder_ResolveWorkspaceImage_FullMethodName,
	builder.ImageBuilder_Build_FullMethodName,
	builder.ImageBuilder_ResolveBaseImage_FullMethodName,
	builder.ImageBuilder_ResolveWorkspaceImage_FullMethodName,
}

// openTracing returns the provider that records and exports spans, or nil without an endpoint.
func (n *Node) openTracing() (*otlp.Provider, error) {
	c := n.cfg.Tracing
	if c.Endpoint == "" {
		return nil, nil
	}
	o := otlp.Options{
		Endpoint: c.Endpoint, Ratio: c.SampleRatio, Node: n.cfg.Name, Version: Version(), Registerer: n.metrics, Logger: n.log,
	}
	if c.TLS.CA != "" {
		o.TLS = &otlp.TLS{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key}
	}
	p, err := otlp.New(o)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	return p, nil
}

// closeTracing exports the remaining spans for at most two seconds. A collector that does not
// respond must not delay the end of the node.
func (n *Node) closeTracing() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	n.tracing.Close(ctx)
}
