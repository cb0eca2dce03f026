package loginfo

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"strings"
)

// maxToken is the maximum length of a token behind its key id, in bytes.
const maxToken = 256

// Keys are the sealing keys of a node.
type Keys interface {
	// SealingKey returns the key that seals new values, and its id.
	SealingKey() (id string, key cipher.AEAD, err error)
	// Key returns a key by its id.
	Key(id string) (key cipher.AEAD, ok bool)
}

// Tokens makes and checks log tokens. A log token lets its bearer read the log of one build. Only
// requesters of the build get one. All nodes with the same sealing keys accept it, as long as they
// have the key that made it.
//
// A token is the id of the key, a dot, and the base64 of a nonce and of the encrypted id of the
// build. The encryption is authenticated and covers associatedData. So only a holder of the key can
// make a token, and a token cannot be changed into one for another build.
type Tokens struct {
	Keys Keys
}

// associatedData returns the additional authenticated data of a token.
func associatedData(build string) []byte { return []byte("log token of build " + build) }

// New returns a token for the log of a build. No two tokens are the same.
func (t Tokens) New(build string) (string, error) {
	id, key, err := t.Keys.SealingKey()
	if err != nil {
		return "", err
	}
	nonce := make([]byte, key.NonceSize())
	_, _ = rand.Read(nonce) // crypto/rand documents that it never fails
	return id + "." + base64.RawURLEncoding.EncodeToString(key.Seal(nonce, nonce, []byte(build), associatedData(build))), nil
}

// Valid reports whether a token is one for the log of a build.
func (t Tokens) Valid(build, token string) bool {
	key, nonce, sealed, ok := t.parse(token)
	if !ok {
		return false
	}
	inside, err := key.Open(nil, nonce, sealed, associatedData(build))
	return err == nil && (len(inside) == 0 || string(inside) == build) // tokens of version 0.2.0 have no id
}

// BuildOf returns the build of a token. ok is false if the token is not valid, and for tokens of
// version 0.2.0, which do not contain the id of their build.
func (t Tokens) BuildOf(token string) (build string, ok bool) {
	key, nonce, sealed, ok := t.parse(token)
	if !ok {
		return "", false
	}
	// The additional data contains the id, so the id must be known before the token can be opened.
	// GCM encrypts with a key stream that depends only on key and nonce. The encryption of zeros
	// returns that stream.
	inside := key.Seal(nil, nonce, make([]byte, len(sealed)-key.Overhead()), nil)[:len(sealed)-key.Overhead()]
	for i := range inside {
		inside[i] ^= sealed[i]
	}
	build = string(inside)
	return build, build != "" && t.Valid(build, token)
}

// parse returns the parts of a token, and the key that made it.
func (t Tokens) parse(token string) (key cipher.AEAD, nonce, sealed []byte, ok bool) {
	id, text, ok := strings.Cut(token, ".")
	if !ok || len(text) > maxToken {
		return nil, nil, nil, false
	}
	if key, ok = t.Keys.Key(id); !ok {
		return nil, nil, nil, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) < key.NonceSize()+key.Overhead() {
		return nil, nil, nil, false
	}
	return key, raw[:key.NonceSize()], raw[key.NonceSize():], true
}
