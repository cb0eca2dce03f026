package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// authFlags say which registry credentials a request may use.
type authFlags struct {
	file     string
	allowAll bool
	hosts    []string
}

func (a *authFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.file, "registry-auth", "", "docker config.json whose credentials go with the request")
	f.BoolVar(&a.allowAll, "allow-all", false, "use the install's credentials for any registry")
	f.StringSliceVar(&a.hosts, "allow-host", nil, "use the install's credential for these registries")
}

func (a *authFlags) message() (*imagebuilderv1.RegistryAuth, error) {
	m := &imagebuilderv1.RegistryAuth{AllowAll: a.allowAll, AllowHosts: a.hosts}
	if a.file == "" {
		return m, nil
	}
	raw, err := os.ReadFile(a.file)
	if err != nil {
		return nil, exitError{exitUsage, fmt.Errorf("--registry-auth: %w", err)}
	}
	var file struct {
		Auths map[string]struct{ Username, Password, Auth string }
	}
	if json.Unmarshal(raw, &file) != nil {
		return nil, exitError{exitUsage, fmt.Errorf("--registry-auth: %s is no docker config.json", a.file)}
	}
	m.Additional = map[string]*imagebuilderv1.BasicAuth{}
	for host, c := range file.Auths {
		if dec, err := base64.StdEncoding.DecodeString(c.Auth); err == nil && c.Auth != "" {
			c.Username, c.Password, _ = strings.Cut(string(dec), ":")
		}
		m.Additional[host] = &imagebuilderv1.BasicAuth{Username: c.Username, Password: c.Password}
	}
	return m, nil
}

func defaultRequester() string { return cmp.Or(os.Getenv("USER"), "cli") }

func refSource(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}

func newBuildCommand() *cobra.Command {
	var c clientFlags
	var auth authFlags
	var ref, requester, requestID string
	var labels []string
	var timeout time.Duration
	var detach, force bool
	cmd := &cobra.Command{
		Use: "build --ref IMAGE", Short: "Build an image and follow it to its end", Args: cobra.NoArgs,
		Long: `Builds a workspace image from an existing image and follows it: the log on standard output,
phases on standard error, the digest last. Ctrl-C leaves the build running.

Exit status: 0 success, 1 the build failed, 2 wrong usage, 3 the service is unavailable, 130 interrupted.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ref == "" {
				return exitError{exitUsage, errors.New("name an image with --ref")}
			}
			client, done, err := c.dial()
			if err != nil {
				return err
			}
			defer done()
			req := &imagebuilderv1.BuildImageRequest{
				RequestId: cmp.Or(requestID, uuid.NewString()), Source: refSource(ref), Requester: requester, Force: force,
			}
			if req.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			if req.Auth, err = auth.message(); err != nil {
				return err
			}
			if timeout > 0 {
				req.Timeout = durationpb.New(timeout)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			f := &follower{client: client, c: &c, out: cmd.OutOrStdout(), errOut: cmd.ErrOrStderr(), detach: detach}
			return f.build(ctx, req)
		},
	}
	c.register(cmd)
	auth.register(cmd)
	f := cmd.Flags()
	f.StringVar(&ref, "ref", "", "the image to build from")
	f.StringVar(&requester, "requester", defaultRequester(), "who asks")
	f.StringVar(&requestID, "request-id", "", "makes asking again answer the same build; random if empty")
	f.StringSliceVar(&labels, "label", nil, "labels of the build, key=value")
	f.DurationVar(&timeout, "timeout", 0, "limit of the whole build; the server's default if 0")
	f.BoolVar(&detach, "detach", false, "print the build's id and do not follow it")
	f.BoolVar(&force, "force", false, "build although the image exists")
	return cmd
}

// follower brings one build to its end before a person's eyes.
type follower struct {
	client      imagebuilderv1.ImageBuilderClient
	c           *clientFlags
	out, errOut io.Writer
	detach      bool
}

func (f *follower) build(ctx context.Context, req *imagebuilderv1.BuildImageRequest) error {
	res, err := retry(ctx, func(ctx context.Context) (*imagebuilderv1.BuildImageResponse, error) {
		return f.client.BuildImage(ctx, req)
	})
	if err != nil {
		return f.c.explain(err)
	}
	b := res.Build
	switch {
	case res.Exists:
		fmt.Fprintln(f.errOut, "the image exists:", b.Ref)
		return f.digest(b)
	case f.detach:
		if f.c.output != "table" {
			return f.c.print(f.out, res, nil)
		}
		fmt.Fprintln(f.out, b.Id)
		return nil
	case res.Attached:
		fmt.Fprintf(f.errOut, "joined build %s of %s\n", b.Id, b.Ref)
	default:
		fmt.Fprintf(f.errOut, "build %s of %s\n", b.Id, b.Ref)
	}
	end, err := f.follow(ctx, b.Id)
	if ctx.Err() != nil {
		fmt.Fprintf(f.errOut, "\nthe build goes on. Follow it:  image-builder logs -f %s\n             Cancel it:  image-builder cancel %s --requester %q\n", b.Id, b.Id, req.Requester)
		return exitError{exitInterrupted, nil}
	}
	if err != nil {
		return f.c.explain(err)
	}
	if end.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		return exitError{exitFailed, fmt.Errorf("build %s: %s (%s)", phaseName(end.Phase), end.Message, blameName(end.Blame))}
	}
	return f.digest(end)
}

// follow shows log and phases until the build ends.
func (f *follower) follow(ctx context.Context, id string) (*imagebuilderv1.Build, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	logsDone := make(chan error, 1)
	wg.Go(func() {
		l := &logReader{client: f.client, out: f.out, name: id, follow: true}
		logsDone <- l.run(ctx)
	})
	shown := imagebuilderv1.Phase_PHASE_QUEUED
	for {
		req := statusRequest(id)
		req.WaitFor = shown + 1
		res, err := retry(ctx, func(ctx context.Context) (*imagebuilderv1.BuildStatusResponse, error) {
			return f.client.BuildStatus(ctx, req)
		})
		if err != nil {
			cancel()
			return nil, err
		}
		b := res.Build
		if b.EndedAt != nil {
			if err := <-logsDone; err != nil && status.Code(err) != codes.Canceled {
				fmt.Fprintln(f.errOut, "the log could not be read to its end:", status.Convert(err).Message())
			}
			fmt.Fprintf(f.errOut, "%s after %s\n", phaseName(b.Phase), b.EndedAt.AsTime().Sub(b.CreatedAt.AsTime()).Round(time.Millisecond))
			return b, nil
		}
		if b.Phase != shown {
			fmt.Fprintln(f.errOut, phaseName(b.Phase))
		}
		shown = b.Phase
	}
}

// digest prints the image by digest, the last line of standard output.
func (f *follower) digest(b *imagebuilderv1.Build) error {
	if f.c.output != "table" {
		return f.c.print(f.out, b, nil)
	}
	repo := b.Ref
	if i := strings.LastIndexByte(repo, ':'); i > strings.LastIndexByte(repo, '/') {
		repo = repo[:i]
	}
	_, err := fmt.Fprintf(f.out, "%s@%s\n", repo, b.Digest)
	return err
}
