package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/follow"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/request"

	"github.com/spf13/cobra"

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
		return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--registry-auth: %w", err))
	}
	var file struct {
		Auths map[string]struct{ Username, Password, Auth string }
	}
	if json.Unmarshal(raw, &file) != nil {
		return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--registry-auth: %s is no docker config.json", a.file))
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

func newBuildCommand() *cobra.Command {
	var c cli.ClientFlags
	var auth authFlags
	var b request.BuildFlags
	cmd := &cobra.Command{
		Use: "build [CONTEXT] | --ref IMAGE", Short: "Build an image and follow it to its end", Args: cobra.MaximumNArgs(1),
		Long: `Builds an image and follows it: on a terminal the steps as they run, elsewhere the log on standard
output and phases on standard error; the digest last. CONTEXT is a directory with a Dockerfile, or the
URL of a git repository (http or https), with #REF or #REF:FOLDER for a branch, tag or commit and a
folder in it, or '-' for a tar archive, gzipped or not, on standard input; with --ref the workspace
image of an existing image is built instead. Ctrl-C leaves the build running.

Exit status: 0 success, 1 the build failed, 2 wrong usage, 3 the service is unavailable, 130 interrupted.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (b.Ref == "") == (len(args) == 0) {
				return cli.ExitWith(cli.ExitUsage, errors.New("name either a context, such as '.', or an image with --ref"))
			}
			if b.Progress != "auto" && b.Progress != "plain" && b.Progress != "json" {
				return cli.ExitWith(cli.ExitUsage, fmt.Errorf("--progress %q is unknown; use auto, plain or json", b.Progress))
			}
			api, done, err := c.Dial()
			if err != nil {
				return err
			}
			defer done()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			req, err := b.Request(ctx, api, args, cmd.InOrStdin())
			if err != nil {
				return c.Explain(err)
			}
			if req.Auth, err = auth.message(); err != nil {
				return err
			}
			f := &follow.Follower{Client: api, C: &c, Out: cmd.OutOrStdout(), ErrOut: cmd.ErrOrStderr(), Detach: b.Detach, Progress: b.Progress}
			return f.Build(ctx, req)
		},
	}
	c.Register(cmd)
	auth.register(cmd)
	b.Register(cmd)
	return cmd
}
