package main

import (
	"context"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// callTimeout bounds a call that does not wait for a build.
const callTimeout = 30 * time.Second

// exitHelp is the help text about the exit status of most commands.
const exitHelp = "\n\nExit status: 0 success, 2 wrong usage or not found, 3 the service is unavailable."

// operatorHelp is the help text about the access of commands for operators.
const operatorHelp = `

Operators only: use --server unix:///path/of/operator.sock on the node, or a client
certificate with the operator role (--ca, --cert, --key).` + exitHelp

// call is one execution of a command that calls a node.
type call struct {
	*cli.Flags
	api     *client.Client
	cluster imagebuilderv1.ClusterClient
	out     io.Writer
	args    []string
}

// print writes a response in the format of --output. table writes it for people.
func (c *call) print(m proto.Message, table func(io.Writer)) error { return c.Print(c.out, m, table) }

// withNode calls run with connections to the servers of the flags. The context of run ends after
// timeout unless it is 0.
func withNode(cmd *cobra.Command, args []string, flags *cli.Flags, timeout time.Duration, run func(context.Context, *call) error) error {
	pool, err := flags.Dial()
	if err != nil {
		return err
	}
	defer pool.Close()
	ctx := cmd.Context()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	return run(ctx, &call{
		Flags: flags, api: client.Over(pool), cluster: imagebuilderv1.NewClusterClient(pool),
		out: cmd.OutOrStdout(), args: args,
	})
}

// nodeCommand completes a command that calls nodes: it adds the flags of the servers, and runs run
// as withNode does. opts change the flags.
func nodeCommand(cmd *cobra.Command, timeout time.Duration, run func(context.Context, *call) error, opts ...func(*cli.Flags)) *cobra.Command {
	var flags cli.Flags
	for _, o := range opts {
		o(&flags)
	}
	flags.Register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return withNode(cmd, args, &flags, timeout, run) }
	return cmd
}

// callCommand is nodeCommand for a command that consists of short calls. It explains all errors of
// run.
func callCommand(cmd *cobra.Command, run func(context.Context, *call) error, opts ...func(*cli.Flags)) *cobra.Command {
	return nodeCommand(cmd, callTimeout, func(ctx context.Context, c *call) error { return c.Explain(run(ctx, c)) }, opts...)
}

// forOperator is an option of nodeCommand.
func forOperator(f *cli.Flags) { f.Operator = true }

// operatorCommand is callCommand for operators.
func operatorCommand(use, short, long string, args cobra.PositionalArgs, run func(context.Context, *call) error) *cobra.Command {
	return callCommand(&cobra.Command{Use: use, Short: short, Long: long + operatorHelp, Args: args}, run, forOperator)
}
