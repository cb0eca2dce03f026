package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/request"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func newListCommand() *cobra.Command {
	var filter imagebuilderv1.BuildFilter
	var phases, labels []string
	var limit int
	cmd := nodeCommand(&cobra.Command{
		Use: "list", Short: "List builds, newest first", Long: "Lists builds, newest first." + exitHelp, Args: cobra.NoArgs,
	}, callTimeout, func(ctx context.Context, c *call) (err error) {
		if filter.Phases, err = parsePhases(phases); err != nil {
			return err
		}
		if filter.Labels, err = request.ParseLabels(labels); err != nil {
			return err
		}
		all := &imagebuilderv1.ListBuildsResponse{}
		for len(all.Builds) < limit {
			page, err := c.api.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{
				Filter: &filter, PageSize: int32(min(limit-len(all.Builds), 1000)), PageToken: all.NextPageToken,
			})
			if err != nil {
				return c.Explain(err)
			}
			all.Builds = append(all.Builds, page.Builds...)
			if all.NextPageToken = page.NextPageToken; page.NextPageToken == "" {
				break
			}
		}
		return c.print(all, func(w io.Writer) {
			fmt.Fprintln(w, "BUILD\tPHASE\tAGE\tATTEMPTS\tREQUESTER\tIMAGE\tWAITS")
			for _, b := range all.Builds {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", b.Id, cli.PhaseName(b.Phase), cli.Age(b.CreatedAt), len(b.Attempts), b.Requester, b.Ref, b.WaitingReason)
			}
		})
	})
	f := cmd.Flags()
	f.StringSliceVar(&phases, "phase", nil, "only builds in these phases")
	f.StringSliceVar(&labels, "label", nil, "only builds with these labels, key=value")
	f.StringVar(&filter.Requester, "requester", "", "only builds of this requester")
	f.StringVar(&filter.Ref, "ref", "", "only builds of this image")
	f.IntVar(&limit, "limit", 50, "greatest number of builds")
	return cmd
}

// parsePhases returns the phases with these names.
func parsePhases(names []string) (phases []imagebuilderv1.Phase, err error) {
	for _, name := range names {
		v, ok := imagebuilderv1.Phase_value["PHASE_"+strings.ToUpper(name)]
		if !ok || v == 0 {
			return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("phase %q is unknown; use queued, assigned, starting, running, pushing, succeeded, failed or cancelled", name))
		}
		phases = append(phases, imagebuilderv1.Phase(v))
	}
	return phases, nil
}
