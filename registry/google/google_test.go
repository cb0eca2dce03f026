package google_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry/google"
)

func TestMatches_WholeNamesOnly(t *testing.T) {
	for host, want := range map[string]bool{
		"gcr.io": true, "eu.gcr.io": true, "europe-west3-docker.pkg.dev": true, "us-docker.pkg.dev": true, "northamerica-northeast1-docker.pkg.dev": true,
		"gcr.io.evil.example": false, "evilgcr.io": false, "a.b.gcr.io": false, "pkg.dev": false, "docker.pkg.dev": false,
		"europe-docker.pkg.dev.evil.example": false, "evil.example-docker.pkg.dev": false, "europe-python.pkg.dev": false, "gcr.io:444": false, "": false,
	} {
		if got := google.New().Matches(host); got != want {
			t.Errorf("%q: %v, want %v", host, got, want)
		}
	}
}

func TestLogin_ByApplicationDefaultCredentials(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("assertion") == "" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"access_token":"access","token_type":"Bearer","expires_in":3600}`)
	}))
	t.Cleanup(s.Close)
	file := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(file, serviceAccount(t, s.URL), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	l, err := google.New().Login(t.Context(), "europe-west3-docker.pkg.dev")
	if err != nil {
		t.Fatal(err)
	}
	if l.Username != "oauth2accesstoken" || l.Password != "access" || time.Until(l.Expires) < 50*time.Minute {
		t.Errorf("%q ends in %s", l.Username, time.Until(l.Expires))
	}
	if _, err := google.New().Login(t.Context(), "gcr.io.evil.example"); err == nil {
		t.Error("a login for another host")
	}
}

// serviceAccount returns a key file that names the token server at tokenURL.
func serviceAccount(t *testing.T, tokenURL string) []byte {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "builder@project.example", "private_key_id": "1", "token_uri": tokenURL,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}
