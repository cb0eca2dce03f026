package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/config"
)

func newConfigCommand() *cobra.Command {
	var schema bool
	var files []string
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the default configuration or its JSON schema, or check a file",
		Long: `Prints every key with its default and meaning, as YAML that can be edited and used.

Exit status: 0 success, 2 the checked file is wrong.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case len(files) > 0:
				return checkConfig(cmd, files)
			case schema:
				return config.WriteSchema(cmd.OutOrStdout())
			}
			config.WriteDefaults(cmd.OutOrStdout())
			return nil
		},
	}
	cmd.Flags().BoolVar(&schema, "schema", false, "print the JSON schema")
	cmd.Flags().StringSliceVar(&files, "check", nil, "check these files instead of printing")
	return cmd
}

// checkConfig prints the warnings about configuration files, and whether they are valid together.
func checkConfig(cmd *cobra.Command, files []string) error {
	cfg, warnings, err := config.Load(files)
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
}
