package secrets

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// sealingKey is one entry of a key file.
type sealingKey struct {
	ID  string `json:"id"`
	Key string `json:"key"` // base64 of 32 bytes
}

// readKeys reads a key file. order has the ids in the order of the file.
func readKeys(path string) (order []string, keys map[string]cipher.AEAD, mtime time.Time, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, mtime, fmt.Errorf("open sealing key file: %w", err)
	}
	mtime = info.ModTime()
	if info.Mode().Perm()&0o077 != 0 {
		return nil, nil, mtime, fmt.Errorf("sealing key file %s has mode %04o: others can read it; run chmod 600 on it", path, info.Mode().Perm())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, mtime, fmt.Errorf("open sealing key file: %w", err)
	}
	var list []sealingKey
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, nil, mtime, fmt.Errorf("sealing key file %s is not a JSON list of {\"id\", \"key\"}", path)
	}
	keys = map[string]cipher.AEAD{}
	for i, k := range list {
		key, err := base64.StdEncoding.DecodeString(k.Key)
		if err != nil || len(key) != 32 {
			return nil, nil, mtime, fmt.Errorf("sealing key file %s: key %d (%q) is not base64 of 32 bytes", path, i+1, k.ID)
		}
		if _, twice := keys[k.ID]; twice || k.ID == "" {
			return nil, nil, mtime, fmt.Errorf("sealing key file %s: key %d has an empty id or the id of an earlier key (%q)", path, i+1, k.ID)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, nil, mtime, fmt.Errorf("sealing key %q: %w", k.ID, err)
		}
		if keys[k.ID], err = cipher.NewGCM(block); err != nil {
			return nil, nil, mtime, fmt.Errorf("sealing key %q: %w", k.ID, err)
		}
		order = append(order, k.ID)
	}
	if len(order) == 0 {
		return nil, nil, mtime, fmt.Errorf("sealing key file %s has no key", path)
	}
	return order, keys, mtime, nil
}

// NewKeyFile creates a key file with one random key and mode 0600. It fails if the file exists.
func NewKeyFile(path string) error {
	var key, id [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return fmt.Errorf("make sealing key: %w", err)
	}
	if _, err := rand.Read(id[:4]); err != nil {
		return fmt.Errorf("make sealing key: %w", err)
	}
	raw, err := json.MarshalIndent([]sealingKey{{
		ID: fmt.Sprintf("%x", id[:4]), Key: base64.StdEncoding.EncodeToString(key[:]),
	}}, "", "  ")
	if err != nil {
		return fmt.Errorf("make sealing key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make sealing key file: %w", err)
	}
	_, err = f.Write(append(raw, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write sealing key file %s: %w", path, err)
	}
	return nil
}
