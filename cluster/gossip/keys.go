package gossip

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Keys are the keys that encrypt gossip. The first key of the file encrypts, all keys
// decrypt. The file is checked each second for changes. If it cannot be read, the former keys stay
// in use.
type Keys struct {
	path string
	ring *memberlist.Keyring

	mu      sync.Mutex
	seen    time.Time
	refused time.Time // modification time of a version that cannot be read
}

// NewKeyFile writes a new file with mode 0600 and one random key of 32 bytes. It returns an
// error if the file exists.
func NewKeyFile(path string) error {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make the gossip key file: %w", err)
	}
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key) + "\n")
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// LoadKeys reads the file. It returns an error if others can read the file or a key is
// invalid.
func LoadKeys(path string) (*Keys, error) {
	keys, seen, err := readKeys(path)
	if err != nil {
		return nil, err
	}
	ring, err := memberlist.NewKeyring(keys, keys[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Keys{path: path, ring: ring, seen: seen}, nil
}

func readKeys(path string) (keys [][]byte, at time.Time, err error) {
	s, err := os.Stat(path)
	if err != nil {
		return nil, at, fmt.Errorf("read the gossip keys: %w", err)
	}
	if s.Mode().Perm()&0o077 != 0 {
		return nil, s.ModTime(), fmt.Errorf("the gossip key file %s can be read by others (mode %04o): set mode 0600", path, s.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, s.ModTime(), fmt.Errorf("read the gossip keys: %w", err)
	}
	for i, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(line)
		if err != nil || memberlist.ValidateKey(key) != nil {
			return nil, s.ModTime(), fmt.Errorf("%s, line %d: not a base64 key of 16, 24 or 32 bytes", path, i+1)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, s.ModTime(), fmt.Errorf("%s holds no key: write base64 keys of 16, 24 or 32 bytes, one per line", path)
	}
	return keys, s.ModTime(), nil
}

// reload reads the file if it has changed, and logs a version that cannot be read once.
func (k *Keys) reload(log *slog.Logger) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, err := os.Stat(k.path)
	if err == nil && (s.ModTime().Equal(k.seen) || s.ModTime().Equal(k.refused)) {
		return
	}
	keys, at, err := readKeys(k.path)
	if err != nil {
		if !k.refused.Equal(at) || at.IsZero() {
			log.Error("cannot read the changed gossip keys; the former ones stay in use", "err", err)
		}
		k.refused = at
		return
	}
	old := k.ring.GetKeys()
	for _, key := range keys {
		_ = k.ring.AddKey(key) // cannot fail: the key is validated
	}
	_ = k.ring.UseKey(keys[0])
	for _, key := range old {
		if !slices.ContainsFunc(keys, func(n []byte) bool { return string(n) == string(key) }) {
			_ = k.ring.RemoveKey(key)
		}
	}
	k.seen = at
	log.Info("the gossip keys changed", "keys", len(keys), "encrypts", k.primary())
}

// Names returns the names of all keys.
func (k *Keys) Names() (out []string) {
	for _, key := range k.ring.GetKeys() {
		out = append(out, keyName(key))
	}
	return out
}

func keyName(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:4])
}

// primary returns the name of the key that encrypts. The caller holds k.mu.
func (k *Keys) primary() string {
	return keyName(k.ring.GetPrimaryKey())
}

// Primary returns the name of the key that encrypts: the first bytes of its SHA-256 hash, in hex.
func (k *Keys) Primary() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.primary()
}
