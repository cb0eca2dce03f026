package registry

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// maxConfigBytes bounds the size of the docker config file. A Kubernetes secret holds at most 1
// MiB.
const maxConfigBytes = 1 << 20

// configFile is the part of docker's config.json that is used.
type configFile struct {
	Auths map[string]struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
	CredHelpers map[string]string `json:"credHelpers"`
	CredsStore  string            `json:"credsStore"`
}

// readDockerConfig parses a file. Its errors never contain content of the file.
func readDockerConfig(path string) (credentials, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxConfigBytes {
		return credentials{}, fmt.Errorf("read registry credentials: %s is larger than 1 MiB", path)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return credentials{}, fmt.Errorf("read registry credentials: %w", err)
	}
	var file configFile
	if err := json.Unmarshal(b, &file); err != nil {
		return credentials{}, fmt.Errorf("read registry credentials: %s is not a docker config file in JSON", path)
	}
	out := credentials{store: file.CredsStore}
	for key, a := range file.Auths {
		cred := credential{username: a.Username, password: a.Password, identityToken: a.IdentityToken, registryToken: a.RegistryToken}
		if a.Auth != "" {
			if cred.username, cred.password, err = decodeAuth(a.Auth); err != nil {
				return credentials{}, fmt.Errorf("read registry credentials: %s, entry %q: %w", path, configHost(key), err)
			}
		}
		if cred.anonymous() {
			continue // docker leaves an empty entry if a store has the credential
		}
		e := entryOf(key)
		cred.source = "docker config, entry " + e.name
		e.cred = cred
		out.entries = append(out.entries, e)
	}
	for key, helper := range file.CredHelpers {
		e := entryOf(key)
		e.helper = helper
		out.entries = append(out.entries, e)
	}
	for _, h := range append(helpersOf(out.entries), out.store) {
		if h != "" && !helperName.MatchString(h) {
			return credentials{}, fmt.Errorf("read registry credentials: %s names a credential helper with an invalid name", path)
		}
	}
	slices.SortFunc(out.entries, func(a, b authEntry) int {
		if d := len(b.path) - len(a.path); d != 0 {
			return d
		}
		if d := strings.Compare(b.helper, a.helper); d != 0 {
			return d
		}
		return strings.Compare(a.server, b.server)
	})
	return out, nil
}

func helpersOf(entries []authEntry) (out []string) {
	for _, e := range entries {
		out = append(out, e.helper)
	}
	return out
}

// entryOf parses a key. A key with a scheme, or with an API version as its path, is in docker's own
// form and covers the whole host. Any other path is a repository, as in registry.example.com/team.
func entryOf(key string) authEntry {
	host := configHost(key)
	e := authEntry{host: host, name: host, server: key}
	_, path, _ := strings.Cut(key, "/")
	path = strings.Trim(path, "/")
	if !strings.Contains(key, "://") && path != "v1" && path != "v2" && path != "" {
		e.path, e.name = path, host+"/"+path
	}
	return e
}

// decodeAuth decodes base64 of user:password.
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
