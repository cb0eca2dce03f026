// Command image-builder is the whole service in one binary: a node, the command line for users and
// operators, the programs in the pods of builds, and a trial installation on one machine.
//
// Each command has its own file. It parses flags, calls other packages, and prints the result.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/dev"
	"github.com/image-builder-ha/image-builder/node"
)

func main() {
	os.Exit(execute(context.Background(), os.Args[1:]))
}

// execute runs a command line and returns the exit status. It prints errors to standard error.
func execute(ctx context.Context, args []string) int {
	root := newRootCommand()
	root.SetArgs(args)
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	cmd, err := root.ExecuteContextC(ctx)
	switch code, text, known := cli.ExitStatus(err); {
	case err == nil:
		return 0
	case !started: // the arguments are wrong; cobra does not name the right ones
		fmt.Fprintf(os.Stderr, "image-builder: %v; %s\n", err, usageHint(cmd))
		return cli.ExitUsage
	case known && text == nil:
		return code
	default:
		fmt.Fprintln(os.Stderr, "image-builder:", text)
		return code
	}
}

// usageHint returns how to use a command, for the end of an error.
func usageHint(cmd *cobra.Command) string {
	if cmd.HasSubCommands() {
		return fmt.Sprintf("'%s --help' lists the commands", cmd.CommandPath())
	}
	return fmt.Sprintf("usage: %s (see '--help')", cmd.UseLine())
}

// newRootCommand returns the command line with all commands.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "image-builder",
		Short: "A highly available builder of container images",
		Long: `A highly available builder of container images.

Exit status of all commands: 0 success, 1 the build failed or was cancelled,
2 wrong usage, 3 the service is unavailable, 130 interrupted.`,
		Version:       node.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newBuildCommand(), newListCommand(), newStatusCommand(), newLogsCommand(), newCancelCommand(), newResolveCommand(),
		newRunCommand(), newConfigCommand(), newCacheCommand(), newClusterCommand(), newSnapshotCommand(), newDoctorCommand(),
		newVerifyCommand(), newSBOMCommand(), newWorkerCommand(), newRegistryProxyCommand(), dev.Command())
	for _, c := range root.Commands() {
		if c.HasSubCommands() && !c.Runnable() { // otherwise a misspelt subcommand would be no error
			c.Args, c.RunE = cobra.NoArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
	return root
}
