// Command image-builder is the whole service in one binary: nodes, the command
// line that talks to them, and a way to try it on one machine.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/dev"
	"github.com/image-builder-ha/image-builder/node"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(execute(context.Background(), os.Args[1:]))
}

func execute(ctx context.Context, args []string) int {
	root := newRootCommand()
	root.SetArgs(args)
	began := false
	root.PersistentPreRun = func(*cobra.Command, []string) { began = true }
	cmd, err := root.ExecuteContextC(ctx)
	switch code, text, known := cli.ExitStatus(err); {
	case err == nil:
		return 0
	case !began: // the arguments are wrong, and cobra does not say what would be right
		fmt.Fprintf(os.Stderr, "image-builder: %v; %s\n", err, remedy(cmd))
		return cli.ExitUsage
	case known && text == nil:
		return code
	default:
		fmt.Fprintln(os.Stderr, "image-builder:", text)
		return code
	}
}

// remedy tells how a command is used.
func remedy(cmd *cobra.Command) string {
	if cmd.HasSubCommands() {
		return fmt.Sprintf("'%s --help' names the commands", cmd.CommandPath())
	}
	return fmt.Sprintf("usage: %s ('--help' tells more)", cmd.UseLine())
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "image-builder",
		Short: "A highly available builder of container images",
		Long: `A highly available builder of container images.

Exit status of all commands: 0 success, 1 the build failed, 2 wrong usage,
3 the service is unavailable, 130 interrupted.`,
		Version:       node.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newRunCommand(), dev.NewDevCommand(), newConfigCommand(),
		newBuildCommand(), newListCommand(), newStatusCommand(), newLogsCommand(), newCancelCommand(),
		newResolveCommand(), newCacheCommand(), newDoctorCommand(), newClusterCommand(), newSnapshotCommand(), newVerifyCommand(), newSBOMCommand(),
		newWorkerCommand(), newRegistryProxyCommand())
	for _, c := range root.Commands() {
		if c.HasSubCommands() && !c.Runnable() { // else a misspelt command would be no error
			c.Args, c.RunE = cobra.NoArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
	return root
}
