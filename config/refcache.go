package config

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// RefCache is Gitpod's `refCache` with further keys.
type RefCache struct {
	Interval        Duration `json:"interval" doc:"How often a reference without an interval of its own is resolved again. The value is used at the first start of a cluster; later 'cache set-interval' changes it."`
	Refs            []string `json:"refs" doc:"The references. They are added to the cache once in the life of a cluster; later 'cache add' and 'cache remove' change it."`
	KeepFor         Duration `json:"keepFor" doc:"How long after the end of its interval the last digest of a reference is still returned if the reference cannot be refreshed."`
	Prewarm         string   `json:"prewarm" doc:"Whether the daemons of buildkit.addresses pull the images of the references before a build needs them: 'never', or 'changed': after each refresh that found another digest, and once for a daemon with a new cache. It has to be the same on all nodes."`
	NotifyTokenFile string   `json:"notifyTokenFile" doc:"File with a token of at least 16 characters. With it http.address accepts notifications of registries (the format of distribution) at /v1/registry/notifications with the header Authorization: Bearer TOKEN. The named references are refreshed at once. The file is read again when it changes."`
}

// minNotifyToken is the least length of a token for notifications, in bytes.
const minNotifyToken = 16

// Values of refCache.prewarm.
const (
	PrewarmNever   = "never"
	prewarmChanged = "changed"
)

// validate checks the section. References that cannot be kept are not errors: the node logs them
// when it fills the cache, because a file that Gitpod accepts must work.
func (c RefCache) validate(bad report, httpAddress string, daemons []string) {
	switch c.Prewarm {
	case PrewarmNever:
	case prewarmChanged:
		if len(daemons) == 0 {
			bad("refCache.prewarm", "needs buildkit.addresses, the daemons that pull the images; without them it must be never")
		}
	default:
		bad("refCache.prewarm", "%q is unknown; write never or changed", c.Prewarm)
	}
	if d := time.Duration(c.Interval); d < time.Second || d > 365*24*time.Hour {
		bad("refCache.interval", "must be between 1s and 8760h (a year)")
	}
	if c.KeepFor < 0 {
		bad("refCache.keepFor", "must not be negative")
	}
	if c.NotifyTokenFile == "" {
		return
	}
	if httpAddress == "" {
		bad("refCache.notifyTokenFile", "needs http.address, the port that accepts notifications")
	}
	if _, err := ReadNotifyToken(c.NotifyTokenFile); err != nil {
		bad("refCache.notifyTokenFile", "%v", err)
	}
}

// ReadNotifyToken returns the token in a file, without the spaces around it.
func ReadNotifyToken(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(raw))
	if len(token) < minNotifyToken {
		return "", fmt.Errorf("%s has no token of at least %d characters", path, minNotifyToken)
	}
	return token, nil
}
