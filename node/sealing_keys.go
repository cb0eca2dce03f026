package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/image-builder-ha/image-builder/builds/secrets"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/config"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// keyHeldByAll reports whether every member has a sealing key. A silent member counts with its last
// report, and a member without a report is ignored.
func (n *Node) keyHeldByAll(key string) bool {
	for _, m := range n.cluster.Members() {
		if m.Name != n.cfg.Name && m.Answer != nil && !slices.Contains(m.Answer.GetSealingKeys(), key) {
			return false
		}
	}
	return true
}

// eachSealedBuild calls f for every active build that has secrets, until f returns an error.
func (n *Node) eachSealedBuild(f func(*buildsv1.Record) error) error {
	var all []*buildsv1.Record
	collect := func(r *buildsv1.Record) bool {
		if r.Secrets != nil {
			all = append(all, r)
		}
		return true
	}
	view := n.store.View()
	view.Queued(collect)
	view.Live(collect)
	for _, r := range all {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

// failUnsealable ends the active builds whose secrets this node cannot open, and returns their
// number. A restored snapshot may come from a cluster with other sealing keys.
func (n *Node) failUnsealable(ctx context.Context) (failed int, err error) {
	held := n.keyring.IDs()
	err = n.eachSealedBuild(func(r *buildsv1.Record) error {
		if slices.Contains(held, r.Secrets.KeyId) {
			return nil
		}
		_, _, err := builds.Propose(ctx, n.raft, &buildsv1.StopBuild{
			BuildId: r.Build.Id, Reason: buildsv1.StopReason_STOP_REASON_UNSEALABLE,
			Message: fmt.Sprintf("its secrets were sealed by key %q, which this cluster does not have: ask for the build again", r.Secrets.KeyId),
		})
		if err == nil {
			failed++
		}
		return err
	})
	return failed, err
}

// reseal encrypts the secrets of all active builds with the present key. It returns the number of
// changed builds and the id of the key.
func (n *Node) reseal(ctx context.Context) (resealed int, key string, err error) {
	err = n.eachSealedBuild(func(r *buildsv1.Record) error {
		plain, err := n.keyring.Open(r.Build.Id, r.Secrets)
		if err != nil {
			return err
		}
		sealed, err := n.keyring.Seal(r.Build.Id, plain)
		if err != nil {
			return err
		}
		if key = sealed.GetKeyId(); key == r.Secrets.KeyId {
			return nil
		}
		_, _, err = builds.Propose(ctx, n.raft, &buildsv1.Reseal{BuildId: r.Build.Id, Former: r.Secrets, Sealed: sealed})
		if err == nil {
			resealed++
		}
		return err
	})
	if key == "" && len(n.keyring.IDs()) > 0 {
		key = n.keyring.IDs()[0]
	}
	return resealed, key, err
}

// openKeyring reads the sealing keys. If the configuration names no key file, it uses a file beside
// the data directory, and creates it at the first start. The file is not in the data directory, so
// that a copy of the directory does not contain the key.
func openKeyring(cfg config.Config, log *slog.Logger) (*secrets.Keyring, error) {
	path := cfg.Sealing.KeyFile
	if path == "" {
		path = strings.TrimRight(filepath.Clean(cfg.DataDir), "/") + ".sealing-key.json"
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := secrets.NewKeyFile(path); err != nil {
				return nil, err
			}
			log.Info("created a sealing key: keep this file, the secrets in the data directory cannot be read without it", "file", path)
		}
	}
	return secrets.LoadKeyring(path)
}
