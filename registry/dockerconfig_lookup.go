package registry

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
)

// openDockerConfig reads the file; path "" means a config without credentials.
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

// lookup returns the entry for a repository of a canonical host. The longest path wins
// (containers-auth.json(5)). Between equal paths a helper wins, as in docker. Without an entry,
// lookup returns the credential store, if the file names one.
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

// below reports whether repository is path or below it.
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
			d.log.Warn("cannot find the registry credentials any more; using the last ones", "file", d.path, "err", err)
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
		d.log.Warn("cannot read the changed registry credentials; using the last ones", "file", d.path, "err", err)
		return d.file
	}
	d.file = file
	d.log.Info("read the changed registry credentials", "file", d.path, "entries", len(file.entries))
	return d.file
}

func sameContent(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}
