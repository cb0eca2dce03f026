package verify

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"

	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// canaryHost is the host of a registry that does not exist: RFC 6761 reserves the domain. Requests
// carry a credential for it, which must not appear anywhere.
const canaryHost = "canary.invalid"

// canary is a secret that the run sends to the service.
type canary struct {
	secret string
	forms  [][]byte // encodings in which the secret can appear
}

// newCanary returns a canary with a random secret.
func newCanary() canary {
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // never fails, by its documentation
	s := "canary-" + hex.EncodeToString(raw)
	return canary{s, [][]byte{[]byte(s), []byte(base64.StdEncoding.EncodeToString([]byte(s))), []byte(base64.StdEncoding.EncodeToString([]byte("verify:" + s)))}}
}

// in reports whether a text contains the secret.
func (c canary) in(text []byte) bool {
	for _, f := range c.forms {
		if bytes.Contains(text, f) {
			return true
		}
	}
	return false
}

// inMessage reports whether a message contains the secret in any of its fields.
func (c canary) inMessage(m proto.Message) bool {
	raw, err := proto.Marshal(m)
	return err == nil && c.in(raw)
}

// auth returns a copy of the credentials of a request with the canary's credential added.
func (c canary) auth(a *imagebuilderv1.RegistryAuth) *imagebuilderv1.RegistryAuth {
	if a = proto.CloneOf(a); a == nil {
		a = &imagebuilderv1.RegistryAuth{}
	}
	if a.Additional == nil {
		a.Additional = map[string]*imagebuilderv1.BasicAuth{}
	}
	a.Additional[canaryHost] = &imagebuilderv1.BasicAuth{Username: "verify", Password: c.secret}
	return a
}

// longest returns the length of the longest encoding.
func (c canary) longest() (n int) {
	for _, f := range c.forms {
		n = max(n, len(f))
	}
	return n
}
