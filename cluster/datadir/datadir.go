// Package datadir holds the data directory of a node: its lock, and the identity of the node in it.
// It does not hold the replicated log and the snapshots, which are in the same directory.
package datadir

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
)

// Identity is the content of the identity file of a data directory.
type Identity struct {
	Name    string `json:"name"`
	StoreID string `json:"store_id"`
	// Initialized is set once the first start has succeeded. Before that nothing was acknowledged,
	// so a first start that was killed may begin again.
	Initialized bool `json:"initialized"`
	// ClusterID is the cluster that the node belongs to. Once it is set, only Recover changes it.
	ClusterID string `json:"cluster_id,omitempty"`
	// Promised is the id of the cluster that the node has promised to form with Proposer. A node
	// makes one promise only, so that two halves of one installation never form two clusters.
	Promised string `json:"promised,omitempty"`
	Proposer string `json:"proposer,omitempty"`
	// Bootstrap is the first configuration. It is empty once it is in Raft's log.
	Bootstrap []Server `json:"bootstrap,omitempty"`
}

// Server is one server of the first configuration of a cluster.
type Server struct {
	ID      string `json:"id"`
	Address string `json:"address"`
	Voter   bool   `json:"voter"`
}

// Names in a data directory.
const (
	identityName = "identity.json"
	snapshots    = "snapshots" // the name that raft.FileSnapshotStore uses
	// LogDir is the directory of the files of the replicated log.
	LogDir = "wal"
	// LogEnd is the file that holds the end of the log.
	LogEnd = "written"
)

// Dir is a locked data directory.
type Dir struct {
	path string
	lock *os.File
	// foreign means that the log is not in the directory.
	foreign bool
	storeID string // never changes after Open

	mu sync.Mutex
	id Identity
}

// Open locks the data directory of the node with that name and reads its identity, or creates it.
// foreign means that the replicated log is elsewhere. The caller closes the directory.
func Open(path, name string, foreign bool) (*Dir, error) {
	if err := makeDir(path); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, lock: lock, foreign: foreign}
	if err := d.identify(name); err != nil {
		_ = lock.Close()
		return nil, err
	}
	d.storeID = d.id.StoreID
	return d, nil
}

func lockDir(path string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		raw, _ := os.ReadFile(lock.Name())
		_ = lock.Close()
		return nil, fmt.Errorf("data directory %s is used by another process (pid %s); stop it, or give this node a directory of its own", path, strings.TrimSpace(string(raw)))
	}
	if err := errors.Join(lock.Truncate(0), func() error { _, err := fmt.Fprintln(lock, os.Getpid()); return err }()); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	return lock, nil
}

func (d *Dir) identify(name string) error {
	raw, err := os.ReadFile(filepath.Join(d.path, identityName))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return d.create(name)
	case err != nil:
		return fmt.Errorf("read the identity of the data directory: %w", err)
	}
	if err := json.Unmarshal(raw, &d.id); err != nil || d.id.StoreID == "" || d.id.Name == "" {
		return Damaged(d.path, fmt.Sprintf("the file %q cannot be read", identityName))
	}
	if d.id.Name != name {
		return fmt.Errorf("data directory %s belongs to node %q, not to %q; start it under its name, or give this node a directory of its own", d.path, d.id.Name, name)
	}
	if d.id.Initialized {
		if _, err := os.Stat(filepath.Join(d.path, LogDir)); err != nil && !d.foreign {
			return Damaged(d.path, `the log's directory "wal" is missing`)
		}
		if d.id.ClusterID == "" { // version 0.1.0 supported single nodes only and wrote no cluster id
			d.id.ClusterID = d.id.StoreID
		}
		return nil
	}
	// A first start was killed before it acknowledged anything: begin again.
	for _, x := range []string{LogDir, snapshots, LogEnd} {
		if err := os.RemoveAll(filepath.Join(d.path, x)); err != nil {
			return fmt.Errorf("begin the first start again: %w", err)
		}
	}
	return nil
}

func (d *Dir) create(name string) error {
	for _, x := range []string{LogDir, snapshots, LogEnd} {
		if _, err := os.Stat(filepath.Join(d.path, x)); err == nil {
			return Damaged(d.path, fmt.Sprintf("the file %q is missing although %q exists", identityName, x))
		}
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return fmt.Errorf("make a store id: %w", err)
	}
	d.id = Identity{Name: name, StoreID: hex.EncodeToString(b[:])}
	return d.save()
}

// Change changes the identity durably by f. If f returns an error, nothing changes.
func (d *Dir) Change(f func(*Identity) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.id
	if err := f(&d.id); err != nil {
		d.id = old
		return err
	}
	if reflect.DeepEqual(old, d.id) {
		return nil
	}
	if err := d.save(); err != nil {
		d.id = old
		return err
	}
	return nil
}

// Path returns the path of the directory.
func (d *Dir) Path() string { return d.path }

// StoreID returns the random id of the directory, which never changes.
func (d *Dir) StoreID() string { return d.storeID }

// Identity returns a copy of the identity.
func (d *Dir) Identity() Identity {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.id
}

// save replaces the identity file atomically and durably: it writes a new file, syncs it, renames
// it, and syncs the directory.
func (d *Dir) save() error {
	raw, err := json.Marshal(d.id)
	if err != nil {
		return fmt.Errorf("save the identity: %w", err)
	}
	path := filepath.Join(d.path, identityName)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("save the identity: %w", err)
	}
	_, err = f.Write(append(raw, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = Sync(d.path)
	}
	if err != nil {
		return fmt.Errorf("save the identity: %w", err)
	}
	return nil
}

// Close unlocks the directory. It can be called again.
func (d *Dir) Close() error {
	if d.lock == nil {
		return nil
	}
	err := d.lock.Close()
	d.lock = nil
	return err
}
