package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/node"

	"github.com/spf13/cobra"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
)

const asTheNode = `

It asks the registry itself, with the configuration and the credentials of the install: run it where a node runs.`

// withRegistry opens a node's registry client, as its configuration says, and
// with what kept, if it is not nil, makes of that.
func withRegistry(ctx context.Context, paths []string, kept func(config.Config) func(string) (registry.Kept, bool), use func(context.Context, *registry.Client) error) error {
	cfg, _, err := config.LoadConfig(paths)
	if err == nil {
		cfg.Complete()
		err = cfg.Registry.Validate()
	}
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, err)
	}
	o := node.RegistryOptions(cfg, slog.New(slog.DiscardHandler), nil)
	if kept != nil {
		o.Kept = kept(cfg)
	}
	client, err := registry.New(o)
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, err)
	}
	defer client.Close()
	return use(ctx, client)
}

func newDoctorCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "doctor", Short: "Find out what is wrong with what a node depends on", Long: "Finds out what is wrong with what a node depends on." + statuses}
	var files []string
	host := &cobra.Command{
		Use: "registry HOST", Short: "Examine a registry, layer by layer", Args: cobra.ExactArgs(1),
		Long: `Examines a registry and its mirrors: configuration, name, connection, certificate, API, login and limits. Nothing is changed there.` +
			asTheNode + "\n\nExit status: 0 it can be used, 1 it cannot, 2 wrong usage.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRegistry(cmd.Context(), files, nil, func(ctx context.Context, c *registry.Client) error {
				failed := false
				t := tabwriter.NewWriter(cli.Harmless(cmd.OutOrStdout()), 0, 4, 2, ' ', 0)
				for _, check := range c.Doctor(ctx, args[0], registry.Rights{AllowAll: true}) {
					failed = failed || check.Verdict == registry.Failed
					fmt.Fprintf(t, "%s\t%s\t%s\n", check.Verdict, check.Name, check.Detail)
					if check.Advice != "" {
						fmt.Fprintf(t, "\t\t%s\n", check.Advice)
					}
				}
				if err := t.Flush(); err != nil {
					return err
				}
				if failed {
					return cli.ExitWith(cli.ExitFailed, nil)
				}
				return nil
			})
		},
	}
	host.Flags().StringSliceVar(&files, "config", nil, "configuration files of the node; later ones win")
	cmd.AddCommand(host)
	return cmd
}

// explainRef tells how a reference is resolved. What the cluster keeps resolved
// is asked of a node, if one answers.
func explainRef(ctx context.Context, w io.Writer, flags *cli.ClientFlags, files []string, ref, platform string) error {
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
			e.Cache += fmt.Sprintf("; whether the cluster keeps it resolved is not known: %v", unknown)
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

// cachedRefs asks a node for what the cluster keeps resolved, for a moment.
func cachedRefs(ctx context.Context, c *cli.ClientFlags) (*imagebuilderv1.ListCachedRefsResponse, error) {
	api, done, err := c.Dial()
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	res, err := api.ListCachedRefs(ctx, &imagebuilderv1.ListCachedRefsRequest{})
	return res, c.Explain(err)
}

func printExplanation(w io.Writer, e registry.Explanation) error {
	t := tabwriter.NewWriter(cli.Harmless(w), 0, 4, 2, ' ', 0)
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
			fmt.Fprintf(t, "  not asked for\t%s, because it did not answer\n", p.BreakerOpen.Round(time.Millisecond))
		}
		if p.Err != nil {
			fmt.Fprintf(t, "  no answer\t%v\n", p.Err)
		}
	}
	for _, r := range e.Requests {
		answer := r.Err
		if answer == "" {
			answer = fmt.Sprint(r.Status)
		}
		fmt.Fprintf(t, "request\t%s %s%s: %s in %s\n", r.Method, r.Host, r.Path, answer, r.Took.Round(time.Millisecond))
	}
	fmt.Fprintf(t, "platform\t%s\n", e.Platform)
	if e.Chosen != "" {
		fmt.Fprintf(t, "  chosen\t%s\n", e.Chosen)
	}
	for _, p := range e.Platforms {
		fmt.Fprintf(t, "  there is\t%s\n", p)
	}
	fmt.Fprintf(t, "cache\t%s\ntook\t%s\n", e.Cache, e.Took.Round(time.Millisecond))
	return t.Flush()
}
