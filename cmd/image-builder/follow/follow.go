package follow

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// follower brings one build to its end before a person's eyes.
type Follower struct {
	Client      *client.Client
	C           *cli.ClientFlags
	Out, ErrOut io.Writer
	Detach      bool
	Progress    string // auto, plain or json
}

func (f *Follower) Build(ctx context.Context, req *imagebuilderv1.BuildImageRequest) error {
	res, err := f.Client.BuildImage(ctx, req)
	if err != nil {
		return f.C.Explain(err)
	}
	b := res.Build
	switch {
	case res.Exists:
		fmt.Fprintln(f.ErrOut, "the image exists:", b.Ref)
		return f.digest(b)
	case f.Detach:
		if f.C.Output != "table" {
			return f.C.Print(f.Out, res, nil)
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
		fmt.Fprintf(f.ErrOut, "\nthe build goes on. Follow it:  image-builder logs -f %s\n             Cancel it:  image-builder cancel %s --requester %q\n", b.Id, b.Id, req.Requester)
		return cli.ExitWith(cli.ExitInterrupted, nil)
	}
	if err != nil {
		return f.C.Explain(err)
	}
	if end.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		return failed(end)
	}
	return f.digest(end)
}

// failed words the end of a build that did not succeed.
func failed(b *imagebuilderv1.Build) error {
	what := "build " + cli.PhaseName(b.Phase) + ": "
	return cli.ExitWith(cli.ExitFailed, fmt.Errorf("%s%s (%s)", what, strings.TrimPrefix(b.Message, what), cli.BlameName(b.Blame)))
}

// view shows the course of one build. log is called by one goroutine, the
// other methods by another.
type view interface {
	// phase tells that the build is in another phase.
	phase(b *imagebuilderv1.Build) error
	// log shows the next part of the log.
	log(c client.Chunk) error
	// end tells that the build has ended and its log was shown, and returns
	// once all of it stands on the screen.
	end(b *imagebuilderv1.Build)
	// close ends the view in any case.
	close()
}

// view chooses how the build is shown: live where a person looks on.
func (f *Follower) view(b *imagebuilderv1.Build) view {
	switch {
	case f.Progress == "json":
		return &jsonView{out: f.Out, errOut: f.ErrOut}
	case f.Progress == "auto" && os.Getenv("TERM") != "dumb" && isTerminal(f.ErrOut) && (isTerminal(f.Out) || f.C.Output != "table"):
		if v, err := newLiveView(f.ErrOut, b); err == nil {
			return v
		}
	}
	v := &plainView{out: f.Out, errOut: f.ErrOut}
	if f.C.Output != "table" {
		v.out = f.ErrOut // standard output is for programs
	}
	return v
}

// follow shows the course of the build until it ends.
func (f *Follower) follow(ctx context.Context, b *imagebuilderv1.Build) (*imagebuilderv1.Build, error) {
	ctx, cancel := context.WithCancel(ctx)
	v := f.view(b)
	logsDone := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		logsDone <- f.Client.Logs(ctx, client.LogsRequest{Build: b.Id, Follow: true}, v.log)
	})
	defer v.close()
	defer wg.Wait()
	defer cancel()
	shown := imagebuilderv1.Phase_PHASE_QUEUED
	for {
		req := cli.StatusRequest(b.Id)
		req.WaitFor = shown + 1
		res, err := f.Client.BuildStatus(ctx, req)
		if err != nil {
			return nil, err
		}
		if b = res.Build; b.EndedAt != nil {
			if err := <-logsDone; err != nil && status.Code(err) != codes.Canceled {
				defer fmt.Fprintln(f.ErrOut, "the log could not be read to its end:", status.Convert(err).Message())
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

// digest prints the image by digest, the last line of standard output.
func (f *Follower) digest(b *imagebuilderv1.Build) error {
	if f.C.Output != "table" {
		return f.C.Print(f.Out, b, nil)
	}
	repo := b.Ref
	if i := strings.LastIndexByte(repo, ':'); i > strings.LastIndexByte(repo, '/') {
		repo = repo[:i]
	}
	_, err := fmt.Fprintf(f.Out, "%s@%s\n", repo, b.Digest)
	return err
}
