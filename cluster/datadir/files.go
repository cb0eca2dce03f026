package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Damaged returns the error for a data directory that is refused. It names the reason and the
// remedy.
func Damaged(dir, what string) error {
	return fmt.Errorf("data directory %s is damaged: %s. The node does not start, because it would lose acknowledged builds. "+
		"Do not put an older copy of the directory in its place: the node would forget its votes and what it has acknowledged. "+
		"In a cluster whose other voters have a majority, empty the directory and start the node: it joins as a new member. "+
		"If they have none, see \"A majority of the voters is lost for good\" in docs/runbooks.md. A node that is alone starts with an empty directory, and restores the newest snapshot that was saved (image-builder snapshot restore)", dir, what)
}

// makeDir creates a directory and its parents durably. Without this a power loss could remove a
// data directory whose files are all durable, and the node would begin as another server.
func makeDir(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return Sync(parent)
}

// Sync makes the entries of a directory durable.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
