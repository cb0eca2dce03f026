package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/pki"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/config"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/cluster"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// operatorNote is what the help of operators' commands says about access.
const operatorNote = `

Operators only: --server unix:///path/of/operator.sock on the node, or a client
certificate with the operator role (--ca, --cert, --key).` + statuses

func newClusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "The nodes of the cluster", Long: "Shows and changes the nodes of the cluster." + operatorNote}
	cmd.AddCommand(newMembersCommand(), newClusterStatusCommand(), newTransferCommand(), newRemoveNodeCommand(),
		newDrainCommand("drain", "Keep new builds away from a node", "Keeps new builds and copies of logs away from a node. Builds whose workloads outlive\ntheir node go on under another one; all others end there. Logs are copied elsewhere.", false),
		newDrainCommand("undrain", "Let builds come to a node again", "Lets builds come to a drained node again.", true),
		newResealCommand(), newCertsCommand(), newKeysCommand(), newGossipKeyCommand(), newRecoverCommand())
	return cmd
}

// clusterCommand is a command that calls the cluster API of a node.
func clusterCommand(use, short, long string, args cobra.PositionalArgs, run func(ctx context.Context, api imagebuilderv1.ClusterClient, c *cli.ClientFlags, w io.Writer, args []string) error) *cobra.Command {
	var c cli.ClientFlags
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long + operatorNote, Args: args,
		RunE: func(cmd *cobra.Command, a []string) error {
			api, done, err := dialCluster(&c)
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := context.WithTimeout(cmd.Context(), callTime)
			defer cancel()
			return c.Explain(run(ctx, api, &c, cmd.OutOrStdout(), a))
		},
	}
	c.Register(cmd)
	return cmd
}

func dialCluster(c *cli.ClientFlags) (imagebuilderv1.ClusterClient, func(), error) {
	conn, done, err := c.DialConn()
	if err != nil {
		return nil, nil, err
	}
	return imagebuilderv1.NewClusterClient(conn), done, nil
}

func newMembersCommand() *cobra.Command {
	var stale bool
	cmd := clusterCommand("members", "List the nodes", `Lists the nodes as the leader sees them. With --stale the node that is asked answers
what it knows itself, which works without a leader.`, cobra.NoArgs,
		func(ctx context.Context, api imagebuilderv1.ClusterClient, c *cli.ClientFlags, w io.Writer, _ []string) error {
			res, err := api.Members(ctx, &imagebuilderv1.MembersRequest{Stale: stale})
			if err != nil {
				return err
			}
			return c.Print(w, res, func(w io.Writer) { membersTable(w, res) })
		})
	cmd.Flags().BoolVar(&stale, "stale", false, "what the node itself knows, also without a leader")
	return cmd
}

func membersTable(w io.Writer, res *imagebuilderv1.MembersResponse) {
	fmt.Fprintln(w, "NODE\tROLE\tSTATE\tZONE\tAPPLIED\tTRAILS BY\tBUILDS\tLAST CONTACT\tADDRESS")
	for _, m := range res.Members {
		role := "follows"
		switch {
		case m.Leader:
			role = "leader"
		case m.Voter:
			role = "voter"
		}
		dash := func(known bool, v any) string {
			if !known {
				return "-"
			}
			return fmt.Sprint(v)
		}
		known := m.AppliedIndex > 0
		if m.Drained {
			m.State += ", drained"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, role, m.State, dash(m.Zone != "", m.Zone),
			dash(known, m.AppliedIndex), dash(known, m.TrailsBy), dash(known, fmt.Sprintf("%d/%d", m.OwnedBuilds, m.Capacity)),
			dash(m.LastContact != nil, m.LastContact.AsDuration().Round(time.Millisecond)), m.Address)
	}
}

func newClusterStatusCommand() *cobra.Command {
	return clusterCommand("status", "Show whether the cluster is well", `Shows leader, failure tolerance and everything that is not as it should be.`, cobra.NoArgs,
		func(ctx context.Context, api imagebuilderv1.ClusterClient, c *cli.ClientFlags, w io.Writer, _ []string) error {
			// A cluster without a leader has a status, too.
			res, err := api.Members(withShort(ctx), &imagebuilderv1.MembersRequest{})
			if err != nil {
				if res, err = api.Members(ctx, &imagebuilderv1.MembersRequest{Stale: true}); err != nil {
					return err
				}
			}
			if err := c.Print(w, res, func(w io.Writer) { statusTable(w, res) }); err != nil {
				return err
			}
			if !res.Available {
				return cli.ExitWith(cli.ExitUnavailable, errors.New("the cluster has no leader: writes wait, reads may be stale"))
			}
			return nil
		})
}

// withShort bounds the first try at the leader.
func withShort(ctx context.Context) context.Context {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	context.AfterFunc(ctx, cancel)
	return ctx
}

func statusTable(w io.Writer, res *imagebuilderv1.MembersResponse) {
	leader := res.Leader
	if leader == "" {
		leader = "none is known"
	}
	fmt.Fprintf(w, "cluster\t%s (id %s, feature level %d)\n", res.Cluster, res.ClusterId, res.FeatureLevel)
	fmt.Fprintf(w, "leader\t%s (term %d)\n", leader, res.Term)
	if !res.FromLeader {
		fmt.Fprintf(w, "answer\tof node %s alone, which does not lead\n", res.AnsweredBy)
	} else {
		fmt.Fprintf(w, "tolerates\tthe failure of %d more voters\n", res.FailureTolerance)
	}
	for _, line := range troubles(res) {
		fmt.Fprintf(w, "trouble\t%s\n", line)
	}
}

// troubles are the things that an operator should look at.
func troubles(res *imagebuilderv1.MembersResponse) (out []string) {
	sealing, gossip := map[string]bool{}, map[string]bool{}
	for _, m := range res.Members {
		if m.State == "dead" || m.State == "silent" {
			out = append(out, fmt.Sprintf("node %s is %s (for %s)", m.Name, m.State, m.Silent.AsDuration().Round(time.Second)))
		}
		if m.TrailsBy > 1000 {
			out = append(out, fmt.Sprintf("node %s trails by %d entries", m.Name, m.TrailsBy))
		}
		if s := m.ClockSkew.AsDuration(); s > time.Second || s < -time.Second {
			out = append(out, fmt.Sprintf("the clock of node %s is %s off the leader's", m.Name, s.Round(time.Millisecond)))
		}
		if m.Capacity > 0 && m.OwnedBuilds >= m.Capacity {
			out = append(out, fmt.Sprintf("node %s runs as many builds as it may (%d, builds.runningPerNode): further ones go elsewhere", m.Name, m.Capacity))
		}
		if m.Trouble != "" {
			out = append(out, fmt.Sprintf("node %s: %s", m.Name, m.Trouble))
		}
		if len(m.SealingKeys) > 0 {
			sealing[strings.Join(m.SealingKeys, " ")] = true
		}
		if m.GossipKey != "" {
			gossip[m.GossipKey] = true
		}
	}
	if len(sealing) > 1 {
		out = append(out, "the nodes hold different sealing keys (a rotation is under way, or a key file is missing somewhere)")
	}
	if len(gossip) > 1 {
		out = append(out, "the nodes encrypt gossip with different keys (a rotation is under way)")
	}
	return out
}

func newTransferCommand() *cobra.Command {
	return clusterCommand("transfer-leadership [NODE]", "Make another voter the leader", `Makes another voter the leader: NODE, or the one that is ahead of the others.`, cobra.MaximumNArgs(1),
		func(ctx context.Context, api imagebuilderv1.ClusterClient, c *cli.ClientFlags, w io.Writer, args []string) error {
			res, err := api.TransferLeadership(ctx, &imagebuilderv1.TransferLeadershipRequest{To: strings.Join(args, "")})
			if err != nil {
				return err
			}
			return c.Print(w, res, func(w io.Writer) { fmt.Fprintf(w, "node %s leads\n", res.Leader) })
		})
}

func newRemoveNodeCommand() *cobra.Command {
	return clusterCommand("remove NODE", "Take a node out of the cluster", `Takes a node out of the cluster, by name or server id. Stop it first: a node that runs
joins again.`, cobra.ExactArgs(1),
		func(ctx context.Context, api imagebuilderv1.ClusterClient, c *cli.ClientFlags, w io.Writer, args []string) error {
			res, err := api.RemoveNode(ctx, &imagebuilderv1.RemoveNodeRequest{Node: args[0]})
			if err != nil {
				return err
			}
			return c.Print(w, res, func(w io.Writer) { fmt.Fprintf(w, "node %s is no member any more\n", args[0]) })
		})
}

func newDrainCommand(verb, short, long string, undrain bool) *cobra.Command {
	return clusterCommand(verb+" NODE", short, long, cobra.ExactArgs(1),
		func(ctx context.Context, api imagebuilderv1.ClusterClient, c *cli.ClientFlags, w io.Writer, args []string) error {
			res, err := api.DrainNode(ctx, &imagebuilderv1.DrainNodeRequest{Node: args[0], Undrain: undrain})
			if err != nil {
				return err
			}
			return c.Print(w, res, func(w io.Writer) {
				fmt.Fprintf(w, "node %s is %sed; %d builds run there\n", args[0], verb, res.Running)
			})
		})
}

func newResealCommand() *cobra.Command {
	return clusterCommand("reseal", "Seal all secrets with the first sealing key", `Seals the secrets of all active builds again, with the first sealing key that all nodes
hold. Rotation: add the new key to the file of every node, then put it first
everywhere, then reseal, then remove the old key everywhere.`, cobra.NoArgs,
		func(ctx context.Context, api imagebuilderv1.ClusterClient, c *cli.ClientFlags, w io.Writer, _ []string) error {
			res, err := api.Reseal(ctx, &imagebuilderv1.ResealRequest{})
			if err != nil {
				return err
			}
			return c.Print(w, res, func(w io.Writer) {
				fmt.Fprintf(w, "all secrets are sealed by key %s (%d were sealed again)\n", res.KeyId, res.Resealed)
			})
		})
}

func newCertsCommand() *cobra.Command {
	var dir, name string
	var nodes, operators []string
	var renew bool
	cmd := &cobra.Command{
		Use: "certs --dir DIR --node NAME...", Short: "Make a CA and certificates for those who have none",
		Long: `Makes a CA in --dir, at the first call, and certificates for the peer port of the named
nodes and for operators. Certificates are valid for a year; --renew makes new ones,
which running nodes take up by themselves. With a CA of your own: the certificates
need the URI name spiffe://CLUSTER/node/NAME or spiffe://CLUSTER/operator/NAME.

Exit status: 0 success, 2 wrong usage.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(nodes)+len(operators) == 0 {
				return cli.ExitWith(cli.ExitUsage, errors.New("name at least one --node or --operator"))
			}
			issue := func(role string, names []string) error {
				for _, n := range names {
					files, err := pki.IssueCert(dir, pki.CertIdentity{Cluster: name, Role: role, Name: n}, renew)
					if err != nil {
						return cli.ExitWith(cli.ExitUsage, err)
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s: %s, %s\n", role, n, files.Cert, files.Key)
				}
				return nil
			}
			if err := errors.Join(issue(pki.RoleNode, nodes), issue(pki.RoleOperator, operators)); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "CA: %s; keep %s away from the nodes\n", filepath.Join(dir, pki.CAFile), filepath.Join(dir, pki.CAKeyFile))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", "certs", "directory of the files")
	f.StringVar(&name, "cluster", cluster.DefaultCluster, "name of the cluster (cluster.name)")
	f.StringSliceVar(&nodes, "node", nil, "name of a node; may be repeated")
	f.StringSliceVar(&operators, "operator", nil, "name of an operator; may be repeated")
	f.BoolVar(&renew, "renew", false, "make new certificates also where there are some")
	return cmd
}

func newKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use: "keys FILE", Short: "Make a file of sealing keys", Args: cobra.ExactArgs(1),
		Long: "Makes a file with one random sealing key (sealing.keyFile). All nodes of a cluster need the same file.\n\nExit status: 0 success, 2 the file exists or cannot be written.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := secrets.NewKeyFile(args[0]); err != nil {
				return cli.ExitWith(cli.ExitUsage, err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "made", args[0])
			return nil
		},
	}
}

func newGossipKeyCommand() *cobra.Command {
	return &cobra.Command{
		Use: "gossip-key FILE", Short: "Make a file with a gossip key", Args: cobra.ExactArgs(1),
		Long: `Makes a file with one random gossip key (cluster.gossip.keyFile). All nodes of a cluster
need the same file. Rotation: append the new key on every node, then put it first on
every node, then remove the old one; running nodes take the file up by themselves.

Exit status: 0 success, 2 the file exists or cannot be written.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := cluster.NewGossipKeyFile(args[0]); err != nil {
				return cli.ExitWith(cli.ExitUsage, err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "made", args[0])
			return nil
		},
	}
}

func newRecoverCommand() *cobra.Command {
	var files []string
	var yes bool
	cmd := &cobra.Command{
		Use: "recover --config FILE", Short: "Make a stopped node the only voter, when a majority is lost for good",
		Long: `For when a majority of the voters is gone for good. Stop the node, run this with its
configuration, start it: it leads a cluster of its own, with everything that it had
stored. Then start the others with empty data directories; they join it. Choose the
node with the greatest applied index (cluster members --stale). What only the lost
nodes had stored is lost, and a lost node that comes back with its data must not be
started: remove its data first.

Exit status: 0 success, 2 wrong usage, 3 the data cannot be used.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return cli.ExitWith(cli.ExitUsage, errors.New("add --yes if the other voters are gone for good"))
			}
			cfg, _, err := config.LoadConfig(files)
			if err != nil {
				return cli.ExitWith(cli.ExitUsage, err)
			}
			cfg.Complete()
			if err := cluster.Recover(cluster.Config{
				Name: cfg.Name, DataDir: filepath.Join(cfg.DataDir, "raft"), StateMachine: builds.NewStore(), Logger: cfg.Log.Logger(os.Stderr),
				Network: cluster.Nowhere(cfg.PeerAddress),
			}); err != nil {
				return cli.ExitWith(cli.ExitUnavailable, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "node %s is the only voter of its cluster now: start it\n", cfg.Name)
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&files, "config", nil, "configuration of the node, as for run")
	cmd.Flags().BoolVar(&yes, "yes", false, "the other voters are gone for good")
	return cmd
}
