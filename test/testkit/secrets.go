package testkit

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"
)

// SecretForms returns the encodings of a secret to search for: the secret itself, and its base64
// form at each of the three possible alignments.
func SecretForms(secret string) [][]byte {
	out := [][]byte{[]byte(secret)}
	for shift := range 3 {
		enc := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), secret...))
		out = append(out, []byte(enc[4:len(enc)-2]))
	}
	return out
}

// NoSecret reports an error if text contains one of the forms of a secret. where is the source of
// the text, for the message.
func NoSecret(t testing.TB, where string, text []byte, secret string) {
	t.Helper()
	for _, form := range SecretForms(secret) {
		if i := bytes.Index(text, form); i >= 0 {
			t.Errorf("%q occurs in %s: %q", form, where, text[max(0, i-50):min(len(text), i+80)])
		}
	}
}

// NoSecretBelow is NoSecret for all files below a folder. It ends the test if there are fewer than
// three files.
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
