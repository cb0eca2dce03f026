package testkit

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"
)

// SecretForms returns the encodings in which a search looks for a secret: the
// secret itself, and what base64 makes of it wherever it begins in a text.
func SecretForms(secret string) [][]byte {
	out := [][]byte{[]byte(secret)}
	for shift := range 3 {
		enc := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), secret...))
		out = append(out, []byte(enc[4:len(enc)-2]))
	}
	return out
}

// NoSecret reports an error if text holds a secret in one of its forms. The
// message names where the text is from.
func NoSecret(t testing.TB, where string, text []byte, secret string) {
	t.Helper()
	for _, form := range SecretForms(secret) {
		if i := bytes.Index(text, form); i >= 0 {
			t.Errorf("%q shows in %s: %q", form, where, text[max(0, i-50):min(len(text), i+80)])
		}
	}
}

// NoSecretBelow is NoSecret for all files below a folder. It ends the test if
// there are hardly any.
func NoSecretBelow(t testing.TB, dir, secret string) {
	t.Helper()
	files := 0
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		NoSecret(t, path, raw, secret)
		files++
		return err
	}); err != nil || files < 3 {
		t.Fatalf("%d files of %s were searched: %v", files, dir, err)
	}
}
