package secrets

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// ErrKeyMissing means that this node does not have the key of a sealed value.
var ErrKeyMissing = errors.New("no sealing key of this node opens the value")

// Keyring holds the keys of a key file. New values are sealed with the first key that all nodes
// hold. Every key opens the values that it sealed. A Keyring reads the file again when it changes.
// If that fails, it continues with the former keys. It is safe for concurrent use.
type Keyring struct {
	path string

	mu    sync.Mutex
	mtime time.Time
	err   error                  // why the changed file is not in use
	order []string               // ids in the order of the file
	keys  map[string]cipher.AEAD // by id
	held  func(id string) bool   // reports whether all nodes hold a key
}

// LoadKeyring reads a key file: a JSON list of {"id", "key"}. A key is the base64 of 32 bytes. Only
// the owner of the file may have permissions on it.
func LoadKeyring(path string) (*Keyring, error) {
	ring := &Keyring{path: path, held: func(string) bool { return true }}
	if err := ring.load(); err != nil {
		return nil, err
	}
	return ring, nil
}

// SetHeldByAll sets the function that reports whether all nodes hold a key. Without it, every key
// counts as held by all nodes.
func (k *Keyring) SetHeldByAll(f func(id string) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held = f
}

// IDs returns the ids of the keys, in the order of the file.
func (k *Keyring) IDs() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refresh()
	return slices.Clone(k.order)
}

// Problem returns the reason why a changed key file is not in use, or nil.
func (k *Keyring) Problem() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refresh()
	return k.err
}

// SealingKey returns the key that seals new values, and its id: the first key that all nodes hold.
func (k *Keyring) SealingKey() (id string, key cipher.AEAD, err error) {
	k.mu.Lock()
	k.refresh()
	order, keys, held := k.order, k.keys, k.held
	k.mu.Unlock()
	for _, id := range order {
		if held(id) {
			return id, keys[id], nil
		}
	}
	return "", nil, fmt.Errorf("no sealing key of %s is held by all nodes: give all nodes the same key file", k.path)
}

// Key returns a key by its id.
func (k *Keyring) Key(id string) (key cipher.AEAD, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refresh()
	key, ok = k.keys[id]
	return key, ok
}

// refresh reads the file again if it changed. The caller holds the lock.
func (k *Keyring) refresh() {
	info, err := os.Stat(k.path)
	if err != nil {
		return
	}
	if info.ModTime().Equal(k.mtime) {
		k.err = nil // the file in use is back, and k.err concerns another one
		return
	}
	k.err = k.load()
}

// load reads the file. If that fails, mtime stays, so that the file is read again even if the
// repair does not change its time: chmod does not.
func (k *Keyring) load() error {
	order, keys, mtime, err := readKeys(k.path)
	if err == nil {
		k.mtime, k.order, k.keys = mtime, order, keys
	}
	return err
}
