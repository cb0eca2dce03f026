package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func newSnapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "snapshot", Short: "Save, inspect and restore the replicated state",
		Long: `Saves, inspects and restores the replicated state: builds, cached references, limits. It
contains sealed secrets, but no logs.` + operatorHelp,
	}
	cmd.AddCommand(
		snapshotCommand("save FILE", "Save the state to a file", "Saves the state to a new file with mode 0600.", saveSnapshot),
		snapshotCommand("restore FILE", "Replace the state with the contents of a file", `Replaces the state of the whole cluster with the contents of a file. All later changes are
lost. Active builds fail if no sealing key of this cluster opens their secrets.`, restoreSnapshot),
		&cobra.Command{
			Use: "inspect FILE", Short: "Check a file and show its contents", Args: cobra.ExactArgs(1),
			Long: "Checks a snapshot completely and shows its contents. It calls no node.\n\nExit status: 0 success, 2 the file cannot be read or is damaged.",
			RunE: func(cmd *cobra.Command, args []string) error { return inspectSnapshot(cmd.OutOrStdout(), args[0]) },
		})
	return cmd
}

// snapshotCommand is a command that streams a snapshot. It has no time limit.
func snapshotCommand(use, short, long string, run func(context.Context, *call) error) *cobra.Command {
	return nodeCommand(&cobra.Command{Use: use, Short: short, Long: long + operatorHelp, Args: cobra.ExactArgs(1)}, 0,
		func(ctx context.Context, c *call) error { return c.Explain(run(ctx, c)) }, forOperator)
}

func saveSnapshot(ctx context.Context, c *call) (err error) {
	path := c.args[0]
	stream, err := c.cluster.SaveSnapshot(ctx, &imagebuilderv1.SaveSnapshotRequest{})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("save the snapshot: %w", err))
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(path) // it is incomplete
		}
	}()
	size := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if _, err := f.Write(m.GetChunk()); err != nil {
			return cli.ExitWith(cli.ExitUsage, fmt.Errorf("save the snapshot: %w", err))
		}
		size += len(m.GetChunk())
	}
	if err := f.Sync(); err != nil {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("save the snapshot: %w", err))
	}
	fmt.Fprintf(c.out, "saved %d bytes to %s\n", size, path)
	return nil
}

// chunkBytes is the size of one message of a restored snapshot, in bytes.
const chunkBytes = 256 << 10

func restoreSnapshot(ctx context.Context, c *call) error {
	f, err := os.Open(c.args[0])
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("restore the snapshot: %w", err))
	}
	defer f.Close()
	stream, err := c.cluster.RestoreSnapshot(ctx)
	if err != nil {
		return err
	}
	buf := make([]byte, chunkBytes)
	for {
		n, err := f.Read(buf)
		if n > 0 && stream.Send(&imagebuilderv1.RestoreSnapshotRequest{Chunk: buf[:n]}) != nil {
			break // CloseAndRecv returns the reason
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return cli.ExitWith(cli.ExitUsage, fmt.Errorf("restore the snapshot: %w", err))
		}
	}
	res, err := stream.CloseAndRecv()
	if err != nil {
		return explainRestore(err)
	}
	fmt.Fprintf(c.out, "restored %d builds; %d active builds failed, because no sealing key of this cluster opens their secrets\n", res.Builds, res.Failed)
	return nil
}

// explainRestore adds to the error of a lost connection that the outcome of the restore is unknown.
// The outcome is known if the connection was never made, or if the node has responded.
func explainRestore(err error) error {
	text := status.Convert(err).Message()
	if status.Code(err) != codes.Unavailable || strings.HasPrefix(text, "connection error") || strings.Contains(text, "restore the snapshot") ||
		strings.Contains(text, cluster.ErrNotRestored.Error()) || strings.Contains(text, "the snapshot is restored") {
		return err
	}
	return status.Errorf(codes.Unavailable, "restore the snapshot: %v: the node has not responded: %s", cluster.ErrOutcomeUnknown, text)
}

func inspectSnapshot(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("inspect the snapshot: %w", err))
	}
	defer f.Close()
	store := builds.NewStore()
	index, err := cluster.InspectSnapshot(f, store.Restore)
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("%s: %w", path, err))
	}
	t := cli.NewTable(w)
	store.Read(func(s *builds.State) {
		c := s.Counts()
		fmt.Fprintf(t, "index\t%d\nfeature level\t%d\nbuilds\t%d (%d queued, %d live, %d ended)\nrequest ids\t%d\ncached references\t%d\n",
			index, s.Level(), c.Builds, c.Queued, c.Live, c.History, c.Requests, len(s.CachedRefs()))
		fmt.Fprintf(t, "sealed by\t%v\n", s.SealingKeys())
	})
	return t.Flush()
}
