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

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// ErrKeyMissing says that no key of this node opens a sealed value.
var ErrKeyMissing = errors.New("no sealing key of this node opens the value")

// Keyring seals secrets before they enter the replicated state. The first key
// seals, all open.
type Keyring struct {
	seal string
	keys map[string]cipher.AEAD
}

// sealingKey is one entry of a key file.
type sealingKey struct {
	ID  string `json:"id"`
	Key string `json:"key"` // base64 of 32 bytes
}

// LoadKeyring reads a key file: a JSON list of {"id", "key"}, the key base64 of
// 32 bytes. The file must not be readable by others than its owner.
func LoadKeyring(path string) (*Keyring, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open sealing key file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("sealing key file %s has mode %04o: others can read it; run chmod 600 on it", path, info.Mode().Perm())
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("open sealing key file: %w", err)
	}
	var list []sealingKey
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("sealing key file %s is no JSON list of {\"id\", \"key\"}", path)
	}
	ring := &Keyring{keys: map[string]cipher.AEAD{}}
	for i, k := range list {
		key, err := base64.StdEncoding.DecodeString(k.Key)
		if err != nil || len(key) != 32 {
			return nil, fmt.Errorf("sealing key file %s: key %d (%q) is not base64 of 32 bytes", path, i+1, k.ID)
		}
		if _, twice := ring.keys[k.ID]; twice || k.ID == "" {
			return nil, fmt.Errorf("sealing key file %s: key %d has an empty id or one that was there before (%q)", path, i+1, k.ID)
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("sealing key %q: %w", k.ID, err)
		}
		if ring.keys[k.ID], err = cipher.NewGCM(block); err != nil {
			return nil, fmt.Errorf("sealing key %q: %w", k.ID, err)
		}
		if i == 0 {
			ring.seal = k.ID
		}
	}
	if ring.seal == "" {
		return nil, fmt.Errorf("sealing key file %s holds no key", path)
	}
	return ring, nil
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
	aead := k.keys[k.seal]
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal secrets: %w", err)
	}
	return &buildsv1.Sealed{
		KeyId:      k.seal,
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
	aead, ok := k.keys[s.KeyId]
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
