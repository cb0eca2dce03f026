package registry

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
)

// maxConfigBytes bounds the docker config file; secrets of Kubernetes hold at
// most 1 MiB.
const maxConfigBytes = 1 << 20

// dockerConfig is the install's docker config file. It is looked at again on
// every use, which costs one stat, and read again when it is another file or
// has other content: Kubernetes swaps a symbolic link above it. While the new
// file cannot be read, the last good one stays.
type dockerConfig struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex
	seen  os.FileInfo // of the last file tried
	auths []authEntry
}

type authEntry struct {
	host string // as in the file, without scheme and path
	cred credential
}

// openDockerConfig reads the file; path "" is a config without credentials.
func openDockerConfig(path string, log *slog.Logger) (*dockerConfig, error) {
	d := &dockerConfig{path: path, log: log}
	if path == "" {
		return d, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read registry credentials: %w", err)
	}
	if d.auths, err = readDockerConfig(path); err != nil {
		return nil, err
	}
	d.seen = info
	return d, nil
}

// lookup finds the credential for a canonical host.
func (d *dockerConfig) lookup(host string, canonical func(string) string) (credential, bool) {
	for _, a := range d.current() {
		if canonical(a.host) == host {
			return a.cred, true
		}
	}
	return credential{}, false
}

func (d *dockerConfig) current() []authEntry {
	if d.path == "" {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	info, err := os.Stat(d.path)
	if err != nil {
		if d.seen != nil {
			d.log.Warn("cannot find the registry credentials any more; going on with the last ones", "file", d.path, "err", err)
		}
		d.seen = nil
		return d.auths
	}
	if sameContent(d.seen, info) {
		return d.auths
	}
	d.seen = info
	auths, err := readDockerConfig(d.path)
	if err != nil {
		d.log.Warn("cannot read the changed registry credentials; going on with the last ones", "file", d.path, "err", err)
		return d.auths
	}
	d.auths = auths
	d.log.Info("read the changed registry credentials", "file", d.path, "hosts", len(auths))
	return d.auths
}

func sameContent(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// readDockerConfig parses a file. Its errors never show content.
func readDockerConfig(path string) ([]authEntry, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxConfigBytes {
		return nil, fmt.Errorf("read registry credentials: %s is larger than 1 MiB", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read registry credentials: %w", err)
	}
	var file struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
			RegistryToken string `json:"registrytoken"`
		} `json:"auths"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		return nil, fmt.Errorf("read registry credentials: %s is not a docker config file in JSON", path)
	}
	var out []authEntry
	for key, a := range file.Auths {
		cred := credential{username: a.Username, password: a.Password, identityToken: a.IdentityToken, registryToken: a.RegistryToken}
		if a.Auth != "" {
			if cred.username, cred.password, err = decodeAuth(a.Auth); err != nil {
				return nil, fmt.Errorf("read registry credentials: %s, entry %q: %w", path, configHost(key), err)
			}
		}
		if !cred.anonymous() {
			out = append(out, authEntry{configHost(key), cred})
		}
	}
	slices.SortFunc(out, func(a, b authEntry) int { return strings.Compare(a.host, b.host) })
	return out, nil
}

// decodeAuth splits base64 of user:password.
func decodeAuth(auth string) (user, password string, err error) {
	b, err := base64.StdEncoding.DecodeString(auth)
	if err != nil {
		return "", "", errors.New("auth is not base64")
	}
	user, password, ok := strings.Cut(string(b), ":")
	if !ok {
		return "", "", errors.New("auth is not base64 of user:password")
	}
	return user, strings.TrimRight(password, "\x00"), nil
}
