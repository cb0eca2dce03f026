package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func newClusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Show and change the nodes of the cluster", Long: "Shows and changes the nodes of the cluster." + operatorHelp}
	cmd.AddCommand(newMembersCommand(), newClusterStatusCommand(), newTransferCommand(), newRemoveNodeCommand(), newDrainCommand(), newUndrainCommand(),
		newResealCommand(), newCertsCommand(), newKeysCommand(), newGossipKeyCommand(), newRecoverCommand())
	return cmd
}

func newMembersCommand() *cobra.Command {
	var stale bool
	cmd := operatorCommand("members", "List the nodes", `Lists the nodes as the leader sees them. With --stale it lists them as the connected node
sees them, which also works without a leader.`, cobra.NoArgs,
		func(ctx context.Context, c *call) error {
			res, err := c.cluster.Members(ctx, &imagebuilderv1.MembersRequest{Stale: stale})
			if err != nil {
				return err
			}
			return c.print(res, func(w io.Writer) { membersTable(w, res) })
		})
	cmd.Flags().BoolVar(&stale, "stale", false, "list the nodes as the connected node sees them")
	return cmd
}

func membersTable(w io.Writer, res *imagebuilderv1.MembersResponse) {
	dash := func(known bool, v any) string {
		if !known {
			return "-"
		}
		return fmt.Sprint(v)
	}
	fmt.Fprintln(w, "NODE\tROLE\tSTATE\tZONE\tAPPLIED\tTRAILS BY\tBUILDS\tLAST CONTACT\tADDRESS")
	for _, m := range res.Members {
		role := "non-voter"
		switch {
		case m.Leader:
			role = "leader"
		case m.Voter:
			role = "voter"
		}
		if m.Drained {
			m.State += ", drained"
		}
		known := m.AppliedIndex > 0
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, role, m.State, dash(m.Zone != "", m.Zone),
			dash(known, m.AppliedIndex), dash(known, m.TrailsBy), dash(known, fmt.Sprintf("%d/%d", m.OwnedBuilds, m.Capacity)),
			dash(m.LastContact != nil, m.LastContact.AsDuration().Round(time.Millisecond)), m.Address)
	}
}

func newTransferCommand() *cobra.Command {
	return operatorCommand("transfer-leadership [NODE]", "Make another voter the leader", `Makes another voter the leader: NODE, or the voter with the most recent state.`, cobra.MaximumNArgs(1),
		func(ctx context.Context, c *call) error {
			res, err := c.cluster.TransferLeadership(ctx, &imagebuilderv1.TransferLeadershipRequest{To: strings.Join(c.args, "")})
			if err != nil {
				return err
			}
			return c.print(res, func(w io.Writer) { fmt.Fprintf(w, "node %s leads\n", res.Leader) })
		})
}

func newRemoveNodeCommand() *cobra.Command {
	return operatorCommand("remove NODE", "Remove a node from the cluster", `Removes a node from the cluster, by name or server id. Stop the node first: a running node
joins again.`, cobra.ExactArgs(1),
		func(ctx context.Context, c *call) error {
			res, err := c.cluster.RemoveNode(ctx, &imagebuilderv1.RemoveNodeRequest{Node: c.args[0]})
			if err != nil {
				return err
			}
			return c.print(res, func(w io.Writer) { fmt.Fprintf(w, "node %s is removed from the cluster\n", c.args[0]) })
		})
}

func newDrainCommand() *cobra.Command {
	return drainCommand("drain NODE", "Stop sending new builds to a node", `Stops sending new builds and copies of logs to a node. Running builds continue under
another node if their workloads do not depend on this node; other builds end on it. The
logs of the node are copied to other nodes.`, "drained", false)
}

func newUndrainCommand() *cobra.Command {
	return drainCommand("undrain NODE", "Send builds to a drained node again", "Sends builds to a drained node again.", "undrained", true)
}

// drainCommand is `drain` or its opposite. done is the new state of the node.
func drainCommand(use, short, long, done string, undrain bool) *cobra.Command {
	return operatorCommand(use, short, long, cobra.ExactArgs(1), func(ctx context.Context, c *call) error {
		res, err := c.cluster.DrainNode(ctx, &imagebuilderv1.DrainNodeRequest{Node: c.args[0], Undrain: undrain})
		if err != nil {
			return err
		}
		return c.print(res, func(w io.Writer) {
			fmt.Fprintf(w, "node %s is %s; %d builds run there\n", c.args[0], done, res.Running)
		})
	})
}
