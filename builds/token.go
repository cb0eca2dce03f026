package builds

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"strings"
)

// A log token lets its bearer read the log of one build. Only those who asked
// for the build get one. It is the id of a sealing key, a dot, and the base64
// of a nonce and the build's id, encrypted, and authenticated together with
// tokenData: nobody makes one, or turns one into that of another build.

func tokenData(build string) []byte { return []byte("log token of build " + build) }

// LogToken answers a token for the log of a build. All nodes that hold the
// sealing keys accept it, for as long as they hold the key that made it.
func (k *Keyring) LogToken(build string) (string, error) {
	id, aead, err := k.sealing()
	if err != nil {
		return "", err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails, by its documentation
	return id + "." + base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, []byte(build), tokenData(build))), nil
}

// CheckLogToken reports whether a token is one for the log of a build.
func (k *Keyring) CheckLogToken(build, token string) bool {
	aead, nonce, sealed, ok := k.openable(token)
	if !ok {
		return false
	}
	inside, err := aead.Open(nil, nonce, sealed, tokenData(build))
	return err == nil && (len(inside) == 0 || string(inside) == build) // tokens of 0.2.0 hold no id
}

// BuildOfLogToken answers the build that a token is for. Those of 0.2.0 do not
// tell it.
func (k *Keyring) BuildOfLogToken(token string) (build string, ok bool) {
	aead, nonce, sealed, ok := k.openable(token)
	if !ok {
		return "", false
	}
	// What authenticates the id is made of the id, so it has to be read first.
	// GCM encrypts by a stream that depends on key and nonce alone: zeros show it.
	inside := aead.Seal(nil, nonce, make([]byte, len(sealed)-aead.Overhead()), nil)[:len(sealed)-aead.Overhead()]
	for i := range inside {
		inside[i] ^= sealed[i]
	}
	build = string(inside)
	return build, build != "" && k.CheckLogToken(build, token)
}

// openable takes a token apart.
func (k *Keyring) openable(token string) (aead cipher.AEAD, nonce, sealed []byte, ok bool) {
	id, text, ok := strings.Cut(token, ".")
	if !ok || len(text) > 256 {
		return nil, nil, nil, false
	}
	if aead, ok = k.key(id); !ok {
		return nil, nil, nil, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) < aead.NonceSize()+aead.Overhead() {
		return nil, nil, nil, false
	}
	return aead, raw[:aead.NonceSize()], raw[aead.NonceSize():], true
}
