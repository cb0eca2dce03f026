package builds

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// ErrKeyMissing says that no key of this node opens a sealed value.
var ErrKeyMissing = errors.New("no sealing key of this node opens the value")

// Keyring seals secrets before they enter the replicated state. All keys open;
// the first that every node holds seals. The file is read again when it
// changed; a file that cannot be read leaves the former keys in use.
type Keyring struct {
	path string

	mu    sync.Mutex
	mtime time.Time
	err   error // why the changed file is not in use
	order []string
	keys  map[string]cipher.AEAD
	held  func(id string) bool
}

// sealingKey is one entry of a key file.
type sealingKey struct {
	ID  string `json:"id"`
	Key string `json:"key"` // base64 of 32 bytes
}

// LoadKeyring reads a key file: a JSON list of {"id", "key"}, the key base64 of
// 32 bytes. The file must not be readable by others than its owner.
func LoadKeyring(path string) (*Keyring, error) {
	ring := &Keyring{path: path, held: func(string) bool { return true }}
	if err := ring.load(); err != nil {
		return nil, err
	}
	return ring, nil
}

// Held sets what tells whether all nodes hold a key. Without it all do.
func (k *Keyring) Held(f func(id string) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held = f
}

// IDs answers the ids of the keys, in the order of the file.
func (k *Keyring) IDs() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refresh()
	return slices.Clone(k.order)
}

// Trouble answers why a changed key file is not in use, or nil.
func (k *Keyring) Trouble() error {
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
		k.err = nil // that of another file, which was there meanwhile
		return
	}
	k.err = k.load()
}

func (k *Keyring) load() error {
	order, keys, mtime, err := readKeys(k.path)
	if err == nil { // else what mends it need not change the time, as chmod does not
		k.mtime, k.order, k.keys = mtime, order, keys
	}
	return err
}

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
		return nil, nil, mtime, fmt.Errorf("sealing key file %s is no JSON list of {\"id\", \"key\"}", path)
	}
	keys = map[string]cipher.AEAD{}
	for i, k := range list {
		key, err := base64.StdEncoding.DecodeString(k.Key)
		if err != nil || len(key) != 32 {
			return nil, nil, mtime, fmt.Errorf("sealing key file %s: key %d (%q) is not base64 of 32 bytes", path, i+1, k.ID)
		}
		if _, twice := keys[k.ID]; twice || k.ID == "" {
			return nil, nil, mtime, fmt.Errorf("sealing key file %s: key %d has an empty id or one that was there before (%q)", path, i+1, k.ID)
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
		return nil, nil, mtime, fmt.Errorf("sealing key file %s holds no key", path)
	}
	return order, keys, mtime, nil
}

// NewKeyFile writes a key file with one random key, mode 0600. It fails if the
// file exists.
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

// secretsField is the name under which the Secrets of a build are sealed.
const secretsField = "secrets"

// Seal encrypts the secrets of a build, bound to its id. It answers nil if
// there are none.
func (k *Keyring) Seal(buildID string, s *buildsv1.Secrets) (*buildsv1.Sealed, error) {
	if proto.Size(s) == 0 {
		return nil, nil
	}
	plain, err := proto.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("seal secrets: %w", err)
	}
	id, aead, err := k.SealingKey()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal secrets: %w", err)
	}
	return &buildsv1.Sealed{
		KeyId:      id,
		Nonce:      nonce,
		Ciphertext: aead.Seal(nil, nonce, plain, associated(buildID)),
	}, nil
}

// Open decrypts the secrets of a build. Without a sealed value it answers an
// empty message; ErrKeyMissing if the key is not here.
func (k *Keyring) Open(buildID string, s *buildsv1.Sealed) (*buildsv1.Secrets, error) {
	out := new(buildsv1.Secrets)
	if s == nil {
		return out, nil
	}
	aead, ok := k.Key(s.KeyId)
	if !ok {
		return nil, fmt.Errorf("open the secrets of build %s, sealed by key %q: %w", buildID, s.KeyId, ErrKeyMissing)
	}
	if len(s.Nonce) != aead.NonceSize() {
		return nil, fmt.Errorf("open the secrets of build %s: the sealed value is damaged", buildID)
	}
	plain, err := aead.Open(nil, s.Nonce, s.Ciphertext, associated(buildID))
	if err != nil {
		return nil, fmt.Errorf("open the secrets of build %s: the sealed value is damaged or belongs to another build", buildID)
	}
	if err := proto.Unmarshal(plain, out); err != nil {
		return nil, fmt.Errorf("open the secrets of build %s: the sealed value is no message", buildID)
	}
	return out, nil
}

func associated(buildID string) []byte { return []byte(buildID + "\x00" + secretsField) }
