package registry

import (
	"log/slog"
	"os"
	"sync"
)

// hubServer is the key under which docker stores the login of Docker Hub.
const hubServer = "https://index.docker.io/v1/"

// dockerConfig is the install's docker config file. Each use checks for changes, with one stat, and
// reads the file again if it was replaced or modified. Kubernetes replaces the file by swapping a
// symbolic link above it. If the new file cannot be read, the last valid content stays in use.
type dockerConfig struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	seen os.FileInfo // the last file read or tried
	file credentials
}

// authEntry is one entry of auths that has a credential, or of credHelpers.
type authEntry struct {
	host string // as in the file, without scheme
	path string // the repository, which covers those below it; "" for the whole host
	name string // as in the file, for messages
	// server is the argument of a helper: the key as in the file.
	server string
	helper string
	cred   credential
}

// credentials is the content of a file.
type credentials struct {
	entries []authEntry // longer paths first, helpers before auths
	store   string      // the helper for all other hosts
}
