package registry

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
)

// dockerConfig is the install's docker config file. It is looked at again on
// every use, which costs one stat, and read again when it is another file or
// has other content: Kubernetes swaps a symbolic link above it. While the new
// file cannot be read, the last good one stays.
type dockerConfig struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	seen os.FileInfo // of the last file tried
	file credentials
}

// authEntry is one entry: of auths with a credential, or of credHelpers.
type authEntry struct {
	host string // as in the file, without scheme
	path string // of a repository or of those below it; "" for the whole host
	name string // as in the file, for people
	// server is what a helper is asked for: the key as in the file.
	server string
	helper string
	cred   credential
}

// credentials is what a file says.
type credentials struct {
	entries []authEntry // of a longer path first, helpers before auths
	store   string      // the helper for every other host
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
	if d.file, err = readDockerConfig(path); err != nil {
		return nil, err
	}
	d.seen = info
	return d, nil
}

// lookup finds the entry for a repository of a canonical host: that of the
// longest path (containers-auth.json(5)), and of equal ones the helper, as
// docker does. Where there is none it is that of the credential store, if the
// file names one.
func (d *dockerConfig) lookup(host, repository string, canonical func(string) string) (authEntry, bool) {
	file := d.current()
	for _, a := range file.entries {
		if canonical(a.host) == host && below(repository, a.path) {
			return a, true
		}
	}
	if file.store == "" {
		return authEntry{}, false
	}
	server := host
	if host == dockerHub {
		server = hubServer
	}
	return authEntry{host: host, name: host, server: server, helper: file.store}, true
}

// below tells whether a repository is path or below it.
func below(repository, path string) bool {
	return path == "" || repository == path || strings.HasPrefix(repository, path+"/")
}

func (d *dockerConfig) current() credentials {
	if d.path == "" {
		return credentials{}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	info, err := os.Stat(d.path)
	if err != nil {
		if d.seen != nil {
			d.log.Warn("cannot find the registry credentials any more; going on with the last ones", "file", d.path, "err", err)
		}
		d.seen = nil
		return d.file
	}
	if sameContent(d.seen, info) {
		return d.file
	}
	d.seen = info
	file, err := readDockerConfig(d.path)
	if err != nil {
		d.log.Warn("cannot read the changed registry credentials; going on with the last ones", "file", d.path, "err", err)
		return d.file
	}
	d.file = file
	d.log.Info("read the changed registry credentials", "file", d.path, "entries", len(file.entries))
	return d.file
}

func sameContent(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
