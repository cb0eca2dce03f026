package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/image-builder-ha/image-builder/builds/secrets"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/gossip"
	"github.com/image-builder-ha/image-builder/cluster/pki"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func newResealCommand() *cobra.Command {
	return operatorCommand("reseal", "Seal all secrets with the first sealing key", `Seals the secrets of all active builds again, with the first sealing key that all nodes
have. To rotate the key: add the new key to the file of every node, then put it first
everywhere, then run reseal, then remove the old key everywhere.`, cobra.NoArgs,
		func(ctx context.Context, c *call) error {
			res, err := c.cluster.Reseal(ctx, &imagebuilderv1.ResealRequest{})
			if err != nil {
				return err
			}
			return c.print(res, func(w io.Writer) {
				fmt.Fprintf(w, "all secrets are sealed by key %s (%d were sealed again)\n", res.KeyId, res.Resealed)
			})
		})
}

func newCertsCommand() *cobra.Command {
	var dir, name string
	var nodes, operators []string
	var renew bool
	cmd := &cobra.Command{
		Use: "certs --dir DIR --node NAME...", Short: "Create a CA and certificates",
		Long: `Creates certificates for the peer port of the named nodes and for operators, and at the
first call their CA in --dir. Certificates are valid for a year. --renew replaces them;
running nodes load new certificates by themselves. With a CA of your own: the certificates
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
	f.BoolVar(&renew, "renew", false, "replace existing certificates")
	return cmd
}

func newKeysCommand() *cobra.Command {
	return keyFileCommand("keys FILE", "Create a file with a sealing key", `Creates a file with one random sealing key (sealing.keyFile). All nodes of a cluster need
the same file.`, secrets.NewKeyFile)
}

func newGossipKeyCommand() *cobra.Command {
	return keyFileCommand("gossip-key FILE", "Create a file with a gossip key", `Creates a file with one random gossip key (cluster.gossip.keyFile). All nodes of a cluster
need the same file. To rotate the key: append the new key on every node, then put it first
on every node, then remove the old key. Running nodes load the file by themselves.`, gossip.NewKeyFile)
}

// keyFileCommand is a command that creates a file without a call to a node.
func keyFileCommand(use, short, long string, create func(path string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		Long: long + "\n\nExit status: 0 success, 2 the file exists or cannot be written.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := create(args[0]); err != nil {
				return cli.ExitWith(cli.ExitUsage, err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "created", args[0])
			return nil
		},
	}
}
