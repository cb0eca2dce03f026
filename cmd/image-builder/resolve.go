package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/request"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/node"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
)

func newResolveCommand() *cobra.Command {
	var flags cli.Flags
	var auth request.AuthFlags
	var platform string
	var workspace, explain bool
	var files []string
	cmd := &cobra.Command{
		Use: "resolve IMAGE", Short: "Resolve an image to its digest", Args: cobra.ExactArgs(1),
		Long: `Resolves an image to its digest, or with --workspace to its workspace image.

--explain shows how the image is resolved: the names of the credentials, the mirrors, the
requests, the platform and the cache.` + registryHelp + exitHelp,
		RunE: func(cmd *cobra.Command, args []string) error {
			if explain {
				return explainRef(cmd.Context(), cmd.OutOrStdout(), &flags, files, args[0], platform)
			}
			return withNode(cmd, args, &flags, 2*callTimeout, func(ctx context.Context, c *call) error {
				a, err := auth.Auth()
				if err != nil {
					return err
				}
				if workspace {
					res, err := c.api.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: request.RefSource(args[0]), Auth: a})
					if err != nil {
						return c.Explain(err)
					}
					return c.print(res, func(w io.Writer) {
						fmt.Fprintf(w, "%s\nbase %s, exists: %v\n", res.Ref, res.BaseRef, res.Exists)
					})
				}
				res, err := c.api.ResolveBaseImage(ctx, &imagebuilderv1.ResolveBaseImageRequest{Ref: args[0], Auth: a, Platform: platform})
				if err != nil {
					return c.Explain(err)
				}
				return c.print(res, func(w io.Writer) { fmt.Fprintln(w, res.Ref) })
			})
		},
	}
	flags.Register(cmd)
	auth.Register(cmd)
	f := cmd.Flags()
	f.StringVar(&platform, "platform", "", "platform of a multi-platform image; linux/amd64 if empty")
	f.BoolVar(&workspace, "workspace", false, "print the workspace image instead")
	f.BoolVar(&explain, "explain", false, "show how the image is resolved")
	f.StringSliceVar(&files, "config", nil, "with --explain: configuration files of the node; later files take precedence")
	return cmd
}

// explainRef shows how a reference is resolved. It gets the cached references of the cluster from a
// node if one is reachable.
func explainRef(ctx context.Context, w io.Writer, flags *cli.Flags, files []string, ref, platform string) error {
	refs, unknown := cachedRefs(ctx, flags)
	kept := func(cfg config.Config) func(string) (registry.Kept, bool) {
		return func(key string) (registry.Kept, bool) {
			for _, r := range refs.GetRefs() {
				if r.Ref == key {
					every := cmp.Or(r.Interval.AsDuration(), refs.DefaultInterval.AsDuration())
					return node.KeptOf(r, every+time.Duration(cfg.RefCache.KeepFor))
				}
			}
			return registry.Kept{}, false
		}
	}
	return withRegistry(ctx, files, kept, func(ctx context.Context, c *registry.Client) error {
		e := c.Explain(ctx, ref, platform, registry.Rights{AllowAll: true})
		if unknown != nil {
			e.Cache += fmt.Sprintf("; the cached references of the cluster are unknown: %v", unknown)
		}
		if err := printExplanation(w, e); err != nil {
			return err
		}
		switch {
		case e.Err == nil:
			return nil
		case registry.KindOf(e.Err) == registry.Unavailable:
			return cli.ExitWith(cli.ExitUnavailable, e.Err)
		}
		return cli.ExitWith(cli.ExitUsage, e.Err)
	})
}

// cachedRefsTimeout bounds the call for the cached references: a node may be down.
const cachedRefsTimeout = 2 * time.Second

// cachedRefs returns the cached references of the cluster.
func cachedRefs(ctx context.Context, flags *cli.Flags) (*imagebuilderv1.ListCachedRefsResponse, error) {
	pool, err := flags.Dial()
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(ctx, cachedRefsTimeout)
	defer cancel()
	res, err := client.Over(pool).ListCachedRefs(ctx, &imagebuilderv1.ListCachedRefsRequest{})
	return res, flags.Explain(err)
}

// printExplanation writes the steps of a resolution as a table.
func printExplanation(w io.Writer, e registry.Explanation) error {
	t := cli.NewTable(w)
	if e.Err == nil {
		fmt.Fprintf(t, "%s\n", e.Image.Ref)
	}
	fmt.Fprintf(t, "reference\t%s\n", e.Ref)
	for _, p := range e.Endpoints {
		kind := "registry"
		if p.Mirror {
			kind = "mirror"
		}
		fmt.Fprintf(t, "%s\t%s/%s\n  credential\t%s\n", kind, p.Host, p.Repository, p.Credential)
		if p.BreakerOpen > 0 {
			fmt.Fprintf(t, "  skipped for\t%s, because the host did not respond\n", p.BreakerOpen.Round(time.Millisecond))
		}
		if p.Err != nil {
			fmt.Fprintf(t, "  error\t%v\n", p.Err)
		}
	}
	for _, r := range e.Requests {
		result := cmp.Or(r.Err, fmt.Sprint(r.Status))
		fmt.Fprintf(t, "request\t%s %s%s: %s in %s\n", r.Method, r.Host, r.Path, result, r.Took.Round(time.Millisecond))
	}
	fmt.Fprintf(t, "platform\t%s\n", e.Platform)
	if e.Chosen != "" {
		fmt.Fprintf(t, "  selected\t%s\n", e.Chosen)
	}
	for _, p := range e.Platforms {
		fmt.Fprintf(t, "  available\t%s\n", p)
	}
	fmt.Fprintf(t, "cache\t%s\nduration\t%s\n", e.Cache, e.Took.Round(time.Millisecond))
	return t.Flush()
}
