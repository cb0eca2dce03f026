package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func newSnapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "snapshot", Short: "Save, inspect and restore the replicated state",
		Long: `Saves, inspects and restores the replicated state: builds, cached references, limits.
Logs are not in it; secrets are, sealed.` + operatorNote,
	}
	cmd.AddCommand(
		snapshotCommand("save FILE", "Save the state to a file", "Saves the state to a new file, mode 0600.", saveSnapshot),
		snapshotCommand("restore FILE", "Replace the state by a file", `Replaces the state of the whole cluster by a file. Everything after it is gone. Active
builds whose secrets no sealing key of this cluster opens are failed with that reason.`, restoreSnapshot),
		&cobra.Command{
			Use: "inspect FILE", Short: "Check a file and show what is in it", Args: cobra.ExactArgs(1),
			Long: "Checks a snapshot to its last byte and shows what is in it. No node is asked.\n\nExit status: 0 success, 2 the file cannot be read or is damaged.",
			RunE: func(cmd *cobra.Command, args []string) error { return inspectSnapshot(cmd.OutOrStdout(), args[0]) },
		})
	return cmd
}

func snapshotCommand(use, short, long string, run func(context.Context, imagebuilderv1.ClusterClient, io.Writer, string) error) *cobra.Command {
	var c cli.ClientFlags
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long + operatorNote, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			api, done, err := dialCluster(&c)
			if err != nil {
				return err
			}
			defer done()
			return c.Explain(run(cmd.Context(), api, cmd.OutOrStdout(), args[0]))
		},
	}
	c.Register(cmd)
	return cmd
}

func saveSnapshot(ctx context.Context, api imagebuilderv1.ClusterClient, w io.Writer, path string) (err error) {
	stream, err := api.SaveSnapshot(ctx, &imagebuilderv1.SaveSnapshotRequest{})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("save the snapshot: %w", err))
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(path) // no half of a snapshot
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
	fmt.Fprintf(w, "saved %d bytes to %s\n", size, path)
	return nil
}

func restoreSnapshot(ctx context.Context, api imagebuilderv1.ClusterClient, w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("restore the snapshot: %w", err))
	}
	defer f.Close()
	stream, err := api.RestoreSnapshot(ctx)
	if err != nil {
		return err
	}
	buf := make([]byte, chunkBytes)
	for {
		n, err := f.Read(buf)
		if n > 0 && stream.Send(&imagebuilderv1.RestoreSnapshotRequest{Chunk: buf[:n]}) != nil {
			break // CloseAndRecv tells why
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
		return err
	}
	fmt.Fprintf(w, "restored %d builds; %d active ones were failed, since no sealing key of this cluster opens their secrets\n", res.Builds, res.Failed)
	return nil
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
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	store.Read(func(s *builds.State) {
		c := s.Counts()
		fmt.Fprintf(t, "index\t%d\nfeature level\t%d\nbuilds\t%d (%d queued, %d live, %d ended)\nrequest ids\t%d\ncached references\t%d\n",
			index, s.Level(), c.Builds, c.Queued, c.Live, c.History, c.Requests, len(s.CachedRefs()))
		fmt.Fprintf(t, "sealed by\t%v\n", s.SealingKeys())
	})
	return t.Flush()
}

// chunkBytes is the size of one message of a snapshot that is sent, in bytes.
const chunkBytes = 256 << 10
