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

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/config"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// heldByAll reports whether every member said that it holds a sealing key. A
// member that is silent counts as it spoke last.
func (n *Node) keyHeldByAll(key string) bool {
	for _, m := range n.cluster.Members() {
		if m.Name != n.cfg.Name && m.Answer != nil && !slices.Contains(m.Answer.GetSealingKeys(), key) {
			return false
		}
	}
	return true
}

// sealedBuilds calls f with every active build that has secrets.
func (n *Node) eachSealedBuild(f func(*buildsv1.Record) error) error {
	var all []*buildsv1.Record
	see := func(r *buildsv1.Record) bool {
		if r.Secrets != nil {
			all = append(all, r)
		}
		return true
	}
	view := n.store.View()
	view.Queued(see)
	view.Live(see)
	for _, r := range all {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

// failUnsealable ends the active builds whose secrets no key here opens: a
// restored snapshot may come from a cluster with other keys.
func (n *Node) failUnsealable(ctx context.Context) (failed int, err error) {
	held := n.keyring.IDs()
	return failed, n.eachSealedBuild(func(r *buildsv1.Record) error {
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
}

// reseal seals the secrets of all active builds with the key that seals now.
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

// openKeyring reads the sealing keys. A single node without any makes one,
// beside its data directory and not in it.
func openKeyring(cfg config.Config, log *slog.Logger) (*builds.Keyring, error) {
	path := cfg.Sealing.KeyFile
	if path == "" {
		path = strings.TrimRight(filepath.Clean(cfg.DataDir), "/") + ".sealing-key.json"
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := builds.NewKeyFile(path); err != nil {
				return nil, err
			}
			log.Info("made a sealing key; keep it, the data directory is of no use without", "file", path)
		}
	}
	return builds.LoadKeyring(path)
}
