package dev

import (
	"context"
	"fmt"
	"io"

	"github.com/google/uuid"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/follow"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/request"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// builder builds through the API of the first node, as the command `build` does.
type builder struct {
	flags cli.Flags
	api   *client.Client
	out   io.Writer
}

// runBuilds builds the example twice, to show the cache. Without BuildKit or the example it builds
// the workspace image of the base image.
func runBuilds(ctx context.Context, o options, base string, dockerfiles bool, out io.Writer) error {
	b := &builder{flags: cli.Flags{Server: o.grpcAddress, Output: "table"}, out: out}
	pool, err := b.flags.Dial()
	if err != nil {
		return err
	}
	defer pool.Close()
	b.api = client.Over(pool)
	if !dockerfiles {
		fmt.Fprintf(out, "$ image-builder build --ref %s --force\n", base)
		return b.build(ctx, &imagebuilderv1.BuildImageRequest{RequestId: uuid.NewString(), Source: request.RefSource(base), Requester: request.DefaultRequester(), Force: true})
	}
	for _, note := range []string{"", "   (again: every step comes from the cache)"} {
		fmt.Fprintf(out, "$ image-builder build --force --build-arg BASE=%s %s%s\n", base, o.example, note)
		f := request.Flags{Requester: request.DefaultRequester(), Force: true, BuildArgs: []string{"BASE=" + base}}
		req, err := f.Request(ctx, b.api, []string{o.example}, nil)
		if err != nil {
			return b.flags.Explain(err)
		}
		if err := b.build(ctx, req); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	return nil
}

// build builds once, and checks that the registry has the image.
func (b *builder) build(ctx context.Context, req *imagebuilderv1.BuildImageRequest) error {
	if err := follow.Build(ctx, b.api, &b.flags, req, follow.Options{Out: b.out, ErrOut: b.out}); err != nil {
		return err
	}
	res, err := b.api.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: req.Source})
	if err != nil {
		return b.flags.Explain(err)
	}
	if !res.Exists {
		return cli.ExitWith(cli.ExitFailed, fmt.Errorf("the registry does not have %s", res.Ref))
	}
	fmt.Fprintf(b.out, "the registry has it at %s\n", res.Ref)
	return nil
}
