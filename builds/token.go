package builds

import (
	"crypto/rand"
	"encoding/base64"
	"strings"
)

// A log token lets its bearer read the log of one build. Only those who asked
// for the build get one.

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
	return id + "." + base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, nil, tokenData(build))), nil
}

// CheckLogToken reports whether a token is one for the log of a build.
func (k *Keyring) CheckLogToken(build, token string) bool {
	id, text, ok := strings.Cut(token, ".")
	if !ok || len(text) > 256 {
		return false
	}
	aead, ok := k.key(id)
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if !ok || err != nil || len(raw) < aead.NonceSize() {
		return false
	}
	_, err = aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], tokenData(build))
	return err == nil
}
