package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/registry"
)

func newDoctorCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "doctor", Short: "Check the services that a node depends on", Long: "Checks the services that a node depends on." + exitHelp}
	cmd.AddCommand(newDoctorRegistryCommand())
	return cmd
}

func newDoctorRegistryCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use: "registry HOST", Short: "Check a registry step by step", Args: cobra.ExactArgs(1),
		Long: `Checks a registry and its mirrors: configuration, name, connection, certificate, API, login
and limits. It changes nothing in the registry.` + registryHelp + `

Exit status: 0 the registry works, 1 it does not, 2 wrong usage.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRegistry(cmd.Context(), files, nil, func(ctx context.Context, c *registry.Client) error {
				failed := false
				t := cli.NewTable(cmd.OutOrStdout())
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
	cmd.Flags().StringSliceVar(&files, "config", nil, "configuration files of the node; later files take precedence")
	return cmd
}
