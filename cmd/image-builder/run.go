package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/node"
)

func newRunCommand() *cobra.Command {
	var files []string
	var dataDir, name, grpcAddress, keyFile string
	var acceptJump bool
	cmd := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Run a node",
		Long: `Runs a node until SIGTERM or Ctrl-C, then stops it gracefully. A second signal ends it at once.
Keys of later --config files replace those of earlier ones, and flags replace both.

Exit status: 0 stopped on request, 2 wrong configuration, 3 a part failed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, warnings, err := config.Load(files)
			if err != nil {
				return cli.ExitWith(cli.ExitUsage, err)
			}
			for flag, set := range map[string]func(){
				"data-dir": func() { cfg.DataDir = dataDir }, "name": func() { cfg.Name = name },
				"grpc-address": func() { cfg.Server.Services.GRPC.Address = grpcAddress },
				"sealing-key":  func() { cfg.Sealing.KeyFile = keyFile }, "accept-clock-jump": func() { cfg.Clock.AcceptJump = acceptJump },
			} {
				if cmd.Flags().Changed(flag) {
					set()
				}
			}
			cfg.Complete()
			if err := cfg.Validate(); err != nil {
				return cli.ExitWith(cli.ExitUsage, fmt.Errorf("the configuration is wrong:\n%w", err))
			}
			log := cfg.Log.Logger(os.Stderr)
			for _, w := range warnings {
				log.Warn(w)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			go func() { // a second signal ends the process
				<-ctx.Done()
				stop()
			}()
			if err := node.New(cfg, node.Parts{Log: log}).Run(ctx); err != nil {
				return cli.ExitWith(cli.ExitUnavailable, err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&files, "config", nil, "configuration file, JSON or YAML; may be repeated")
	f.StringVar(&dataDir, "data-dir", "", "directory of the state and the logs (dataDir)")
	f.StringVar(&name, "name", "", "name of the node (name)")
	f.StringVar(&grpcAddress, "grpc-address", "", "address of the API (server.services.grpc.address)")
	f.StringVar(&keyFile, "sealing-key", "", "file with the sealing keys (sealing.keyFile)")
	f.BoolVar(&acceptJump, "accept-clock-jump", false, "start although the clock has jumped (clock.acceptJump)")
	return cmd
}
