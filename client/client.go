// Package client speaks the native API to a cluster of image builders. It
// knows several servers, moves to another when one fails, repeats what is safe
// to repeat, and resumes logs and watches where they broke.
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
	// ImageBuilderClient has all calls of the API; unary ones are tried on all
	// servers.
	imagebuilderv1.ImageBuilderClient
	pool *Pool
}

// New answers a client. It does not wait for the servers.
func New(o Options) (*Client, error) {
	p, err := NewPool(o)
	if err != nil {
		return nil, err
	}
	return Over(p), nil
}

// Over answers a client over a pool, which the caller closes.
func Over(p *Pool) *Client {
	return &Client{ImageBuilderClient: imagebuilderv1.NewImageBuilderClient(p), pool: p}
}

// Close ends the connections.
func (c *Client) Close() error { return c.pool.Close() }

// Build asks for an image and answers at once: with a new build, with the
// active one of the same image, or with the image if it exists and Force is not
// set. A request without an id gets a random one, so that it creates one build
// however often it has to be sent.
func (c *Client) Build(ctx context.Context, req *imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error) {
	if req.GetRequestId() == "" {
		req = proto.CloneOf(req)
		req.RequestId = uuid.NewString()
	}
	return c.BuildImage(ctx, req)
}

// Wait blocks until a build has ended and answers it. Whether it succeeded is
// in its phase.
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
