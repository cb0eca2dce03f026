package secrets

import (
	"crypto/rand"
	"fmt"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// secretsField is the name of the sealed field in the associated data.
const secretsField = "secrets"

// Seal encrypts the secrets of a build. The result can be opened only for the same build. Seal
// returns nil if there are no secrets.
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

// Open decrypts the secrets of a build. It returns an empty message if there are none, and
// ErrKeyMissing if this node does not have the key.
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
		return nil, fmt.Errorf("open the secrets of build %s: the sealed value is not a message", buildID)
	}
	return out, nil
}

// associated returns the additional authenticated data of a sealed value.
func associated(buildID string) []byte { return []byte(buildID + "\x00" + secretsField) }
