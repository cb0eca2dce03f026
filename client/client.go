// Package client is a client of the native API of a cluster of image builders. It connects to
// several servers, moves to another one when a server fails, retries calls that are safe to repeat,
// and resumes logs and watches after a broken connection.
//
//	c, err := client.New(client.Options{Servers: []string{"a:8080", "b:8080"}})
//	b, err := c.Build(ctx, &imagebuilderv1.BuildImageRequest{Source: ...})
//	b, err = c.Wait(ctx, b.Build.Id)
package client

import (
	"context"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Client is a client of a cluster. Safe for concurrent use.
type Client struct {
	// ImageBuilderClient has all methods of the API. Unary calls are retried on all servers, streams
	// only until they begin.
	imagebuilderv1.ImageBuilderClient
	pool *Pool
}

// New returns a client. It does not wait for a connection. The caller closes the client.
func New(o Options) (*Client, error) {
	p, err := NewPool(o)
	if err != nil {
		return nil, err
	}
	return Over(p), nil
}

// Over returns a client that uses a pool. The caller closes the pool or the client.
func Over(p *Pool) *Client {
	return &Client{ImageBuilderClient: imagebuilderv1.NewImageBuilderClient(p), pool: p}
}

// Close ends the connections.
func (c *Client) Close() error { return c.pool.Close() }

// Build requests an image and returns without waiting for the build: with the image if it exists
// and Force is not set, else with the active build of the same image, else with a new build. With
// Force set, it joins an active build only if that has not begun. If the request has no id, Build
// sends a copy with a random id, so that retries create only one build.
func (c *Client) Build(ctx context.Context, req *imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error) {
	if req.GetRequestId() == "" {
		req = proto.CloneOf(req)
		req.RequestId = uuid.NewString()
	}
	return c.BuildImage(ctx, req)
}

// Wait blocks until a build has ended and returns the build. Its phase shows whether it succeeded.
func (c *Client) Wait(ctx context.Context, id string) (*imagebuilderv1.Build, error) {
	for {
		res, err := c.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{
			Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}, WaitFor: imagebuilderv1.Phase_PHASE_SUCCEEDED,
		})
		if err != nil {
			return nil, err
		}
		if res.Build.EndedAt != nil {
			return res.Build, nil
		}
	}
}
