package registry

import (
	"crypto/rand"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
)

// New returns a client. It reads the credentials and the CA files, and opens no connection. The
// caller closes the client.
func New(o Options) (*Client, error) {
	o.setDefaults()
	config, err := openDockerConfig(o.DockerConfigFile, o.Logger)
	if err != nil {
		return nil, err
	}
	sessions, err := lru.New[string, *session](maxSessions)
	if err != nil {
		return nil, fmt.Errorf("make the session cache: %w", err)
	}
	c := &Client{
		opts:     o,
		plain:    newHostSet(append([]string{"localhost", "127.0.0.1", "::1"}, o.Insecure...)...),
		config:   config,
		salt:     make([]byte, 32),
		sessions: sessions,
		calls:    newCallGroup(),
	}
	_, _ = rand.Read(c.salt) // never fails, by its documentation
	if c.logins, err = newLoginCache(c.calls); err != nil {
		return nil, err
	}
	if c.cache, err = newLookUpCache(o.CacheFor); err != nil {
		return nil, err
	}
	c.copies = newSharedCalls[string](c.calls)
	c.throttle = newThrottle(o.Bandwidth)
	c.workspaceHost = c.canonical(o.WorkspaceHost)
	if c.hosts, err = newHostTable(o.Hosts, c.canonical); err != nil {
		return nil, err
	}
	if c.wire, err = newWire(&c.opts, c.plain, c.hosts); err != nil {
		return nil, err
	}
	return c, nil
}

// Close cancels running look-ups and transfers of blobs, waits for them, and closes idle
// connections.
func (c *Client) Close() error {
	c.calls.close()
	c.wire.closeIdle()
	return nil
}
