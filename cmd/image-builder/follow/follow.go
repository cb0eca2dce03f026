// Package follow requests a build and shows it until it ends: as steps on a terminal, as a plain
// log, or as JSON. It does not make the request.
package follow

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Options describes how a build is shown.
type Options struct {
	// Out is for the log and the result, ErrOut for people who watch.
	Out, ErrOut io.Writer
	// Detach prints the id of the build instead of showing it.
	Detach bool
	// Progress is auto, plain or json; see the help of `build`.
	Progress string
}

// follower shows one build.
type follower struct {
	Options
	client *client.Client
	flags  *cli.Flags
}

// Build sends the request, shows the build until it ends, and prints the image with its digest. The
// error has the exit status of the command. If ctx ends, the build continues, and the error has the
// status cli.ExitInterrupted.
func Build(ctx context.Context, api *client.Client, flags *cli.Flags, req *imagebuilderv1.BuildImageRequest, o Options) error {
	f := &follower{Options: o, client: api, flags: flags}
	res, err := api.BuildImage(ctx, req)
	if err != nil {
		return flags.Explain(err)
	}
	b := res.Build
	switch {
	case res.Exists:
		fmt.Fprintln(f.ErrOut, "the image exists:", b.Ref)
		return f.digest(b)
	case f.Detach:
		if flags.Output != "table" {
			return flags.Print(f.Out, res, nil)
		}
		fmt.Fprintln(f.Out, b.Id)
		return nil
	case res.Attached:
		fmt.Fprintf(f.ErrOut, "joined build %s of %s\n", b.Id, b.Ref)
	default:
		fmt.Fprintf(f.ErrOut, "build %s of %s\n", b.Id, b.Ref)
	}
	end, err := f.follow(ctx, b)
	if ctx.Err() != nil {
		fmt.Fprintf(f.ErrOut, "\nthe build continues. Follow it:  image-builder logs -f %s\n              Cancel it:  image-builder cancel %s --requester %q\n", b.Id, b.Id, req.Requester)
		return cli.ExitWith(cli.ExitInterrupted, nil)
	}
	if err != nil {
		return flags.Explain(err)
	}
	if end.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		return failure(end)
	}
	return f.digest(end)
}

// failure returns the error of a build that did not succeed. The message of the build may already
// begin with its phase.
func failure(b *imagebuilderv1.Build) error {
	prefix := "build " + cli.PhaseName(b.Phase) + ": "
	return cli.ExitWith(cli.ExitFailed, fmt.Errorf("%s%s (%s)", prefix, strings.TrimPrefix(b.Message, prefix), cli.BlameName(b.Blame)))
}

// newView returns the view of a build: live steps for a person at a terminal, otherwise the log.
// output is the format of --output: unless it is "table", standard output is for programs.
func newView(o Options, output string, b *imagebuilderv1.Build) view {
	switch {
	case o.Progress == "json":
		return &jsonView{out: o.Out, errOut: o.ErrOut}
	case o.Progress == "auto" && os.Getenv("TERM") != "dumb" && isTerminal(o.ErrOut) && (isTerminal(o.Out) || output != "table"):
		if v, err := newLiveView(o.ErrOut, b); err == nil {
			return v
		}
	}
	if output != "table" {
		return &plainView{out: o.ErrOut, errOut: o.ErrOut}
	}
	return &plainView{out: o.Out, errOut: o.ErrOut}
}

// follow shows the build until it ends, and returns its last state.
func (f *follower) follow(ctx context.Context, b *imagebuilderv1.Build) (*imagebuilderv1.Build, error) {
	ctx, cancel := context.WithCancel(ctx)
	v := newView(f.Options, f.flags.Output, b)
	logsDone := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		logsDone <- f.client.Logs(ctx, client.LogsRequest{Build: b.Id, Follow: true}, v.log)
	})
	defer v.close()
	defer wg.Wait()
	defer cancel()
	shown := imagebuilderv1.Phase_PHASE_QUEUED
	for {
		req := cli.StatusRequest(b.Id)
		req.WaitFor = shown + 1
		res, err := f.client.BuildStatus(ctx, req)
		if err != nil {
			return nil, err
		}
		if b = res.Build; b.EndedAt != nil {
			if err := <-logsDone; err != nil && status.Code(err) != codes.Canceled {
				defer fmt.Fprintln(f.ErrOut, "the log is incomplete:", status.Convert(err).Message())
			}
			v.end(b)
			fmt.Fprintf(f.ErrOut, "%s after %s\n", cli.PhaseName(b.Phase), b.EndedAt.AsTime().Sub(b.CreatedAt.AsTime()).Round(time.Millisecond))
			return b, nil
		}
		if b.Phase != shown {
			if err := v.phase(b); err != nil {
				return nil, cli.ExitWith(cli.ExitFailed, err)
			}
		}
		shown = b.Phase
	}
}

// digest prints the image with its digest, as the last line of standard output.
func (f *follower) digest(b *imagebuilderv1.Build) error {
	if f.flags.Output != "table" {
		return f.flags.Print(f.Out, b, nil)
	}
	repo := b.Ref
	if i := strings.LastIndexByte(repo, ':'); i > strings.LastIndexByte(repo, '/') {
		repo = repo[:i]
	}
	_, err := fmt.Fprintf(f.Out, "%s@%s\n", repo, b.Digest)
	return err
}
