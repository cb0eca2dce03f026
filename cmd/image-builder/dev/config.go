package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/cluster/gossip"
	"github.com/image-builder-ha/image-builder/cluster/pki"
)

// clusterName is the name of the cluster.
const clusterName = "dev"

// writeConfigs creates the keys, the certificates and the configuration file of each node. Existing
// keys and certificates are kept.
func writeConfigs(dir string, nodes []*devNode, buildkitAddress string, o options) error {
	daemons := []string{}
	if buildkitAddress != "" {
		daemons = append(daemons, buildkitAddress)
	}
	var peers, pages []string
	for _, n := range nodes {
		peers, pages = append(peers, n.peers), append(pages, "http://"+n.http)
	}
	// A node that runs alone creates its sealing key in the same place, so that a later run can have
	// more nodes.
	sealing, gossipKey := filepath.Join(dir, "node.sealing-key.json"), filepath.Join(dir, "gossip-key")
	if len(nodes) > 1 {
		if err := errors.Join(unlessExists(secrets.NewKeyFile(sealing)), unlessExists(gossip.NewKeyFile(gossipKey))); err != nil {
			return fmt.Errorf("create the keys: %w", err)
		}
	}
	for _, n := range nodes {
		config := map[string]any{
			"buildkit":       map[string]any{"addresses": daemons},
			"name":           n.name,
			"dataDir":        n.dir,
			"http":           map[string]any{"address": n.http, "nodes": pages},
			"metricsAddress": n.metrics,
			"healthAddress":  n.health,
			"pprofAddress":   n.pprof,
			"server":         map[string]any{"services": map[string]any{"grpc": map[string]any{"address": n.grpc}}},
			"orchestrator": map[string]any{
				"baseImageRepository":      o.registryAddress + "/base-images",
				"workspaceImageRepository": o.registryAddress + "/workspace-images",
			},
			"registry": map[string]any{"allowLoopback": true},
			"clock":    map[string]any{"acceptJump": true}, // the data may be months old
			"ready":    map[string]any{"after": "0s"},
			"shutdown": map[string]any{"drain": "0s"},
		}
		if len(nodes) > 1 {
			// Each start renews the certificates: they may have expired since the last one.
			files, err := pki.IssueCert(filepath.Join(dir, "certs"), pki.CertIdentity{Cluster: clusterName, Role: pki.RoleNode, Name: n.name}, true)
			if err != nil {
				return fmt.Errorf("create the certificates: %w", err)
			}
			config["peerAddress"] = n.peers
			config["sealing"] = map[string]any{"keyFile": sealing}
			config["cluster"] = map[string]any{
				"name": clusterName, "address": n.peers, "peers": peers, "expect": len(nodes),
				"tls":    map[string]any{"ca": files.CA, "crt": files.Cert, "key": files.Key},
				"gossip": map[string]any{"address": n.gossip, "keyFile": gossipKey},
			}
		}
		raw, err := json.MarshalIndent(config, "", "  ")
		if err != nil {
			return fmt.Errorf("write the node's config: %w", err)
		}
		n.conf = n.dir + ".json"
		if err := os.WriteFile(n.conf, raw, 0o600); err != nil {
			return fmt.Errorf("write the node's config: %w", err)
		}
	}
	return nil
}

// unlessExists returns err unless it says that a file exists.
func unlessExists(err error) error {
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}
