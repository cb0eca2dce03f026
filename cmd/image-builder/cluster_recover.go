package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/transport"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/config"
)

func newRecoverCommand() *cobra.Command {
	var files []string
	var yes bool
	cmd := &cobra.Command{
		Use: "recover --config FILE", Short: "Make a stopped node the only voter after a permanent loss of the majority",
		Long: `Recovers a cluster whose majority of voters is lost for good. Stop the node, run this
command with its configuration, and start it: it leads a new cluster with the state that it
has stored. Then start the other nodes with empty data directories; they join it. Choose the
node with the greatest applied index (cluster members --stale). Changes that only the lost
nodes had stored are lost. The new cluster has another id and refuses nodes that still have
their old data: remove the data first.

Exit status: 0 success, 2 wrong usage, 3 the data cannot be used.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return cli.ExitWith(cli.ExitUsage, errors.New("add --yes if the other voters are lost for good"))
			}
			cfg, _, err := config.Load(files)
			if err != nil {
				return cli.ExitWith(cli.ExitUsage, err)
			}
			cfg.Complete()
			if err := cluster.Recover(cluster.Config{
				Name: cfg.Name, DataDir: filepath.Join(cfg.DataDir, "raft"), StateMachine: builds.NewStore(), Logger: cfg.Log.Logger(os.Stderr),
				FeatureLevel: builds.FeatureLevel,
				Network:      transport.Nowhere(cfg.PeerAddress),
			}); err != nil {
				return cli.ExitWith(cli.ExitUnavailable, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "node %s is the only voter of a new cluster now: start it\n", cfg.Name)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&files, "config", nil, "configuration of the node, as for run")
	cmd.Flags().BoolVar(&yes, "yes", false, "the other voters are lost for good")
	return cmd
}
