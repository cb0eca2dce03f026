package main

import (
	"fmt"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/config"

	"github.com/spf13/cobra"
)

func newConfigCommand() *cobra.Command {
	var schema bool
	var check []string
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the default configuration, its JSON schema, or check a file",
		Long: `Prints every key with its default and meaning, as YAML that can be edited and used.

Exit status: 0 success, 2 the checked file is wrong.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case len(check) > 0:
				cfg, warnings, err := config.LoadConfig(check)
				if err == nil {
					cfg.Complete()
					err = cfg.Validate()
				}
				for _, w := range warnings {
					fmt.Fprintln(cmd.ErrOrStderr(), "warning:", w)
				}
				if err != nil {
					return cli.ExitWith(cli.ExitUsage, err)
				}
				fmt.Fprintln(cmd.OutOrStdout(), "the configuration is valid")
				return nil
			case schema:
				return config.WriteSchema(cmd.OutOrStdout())
			}
			config.WriteDefaults(cmd.OutOrStdout())
			return nil
		},
	}
	cmd.Flags().BoolVar(&schema, "schema", false, "print the JSON schema")
	cmd.Flags().StringSliceVar(&check, "check", nil, "check these files instead of printing")
	return cmd
}
