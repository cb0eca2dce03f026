package verify

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"

	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// canaryHost is a registry that does not exist; requests carry a credential for
// it that has to be found nowhere. See RFC 6761 for the name.
const canaryHost = "canary.invalid"

// canary is a secret that the run gives to the service.
type canary struct {
	secret string
	forms  [][]byte
}

func newCanary() canary {
	raw := make([]byte, 24)
	_, _ = rand.Read(raw) // never fails, by its documentation
	s := "canary-" + hex.EncodeToString(raw)
	return canary{s, [][]byte{[]byte(s), []byte(base64.StdEncoding.EncodeToString([]byte(s))), []byte(base64.StdEncoding.EncodeToString([]byte("verify:" + s)))}}
}

// in reports whether a text holds the secret.
func (c canary) in(text []byte) bool {
	for _, f := range c.forms {
		if bytes.Contains(text, f) {
			return true
		}
	}
	return false
}

// inMessage reports whether a message holds the secret in any of its fields.
func (c canary) inMessage(m proto.Message) bool {
	raw, err := proto.Marshal(m)
	return err == nil && c.in(raw)
}

// auth adds the credential to that of a request.
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

// longest is the length of the longest form.
func (c canary) longest() (n int) {
	for _, f := range c.forms {
		n = max(n, len(f))
	}
	return n
}
