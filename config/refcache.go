package config

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// minNotifyToken is the shortest token that registries may notify with.
const minNotifyToken = 16

// Policies of refCache.prewarm.
const (
	PrewarmNever   = "never"
	prewarmChanged = "changed"
)

func (c RefCacheConfig) validate(bad func(key, format string, args ...any), httpAddress string, daemons []string) {
	switch c.Prewarm {
	case PrewarmNever:
	case prewarmChanged:
		if len(daemons) == 0 {
			bad("refCache.prewarm", "needs buildkit.addresses, the daemons that shall have the images; without any it must be never")
		}
	default:
		bad("refCache.prewarm", "%q is no policy; write never or changed", c.Prewarm)
	}
	if d := time.Duration(c.Interval); d < time.Second || d > 365*24*time.Hour {
		bad("refCache.interval", "must be between 1s and a year")
	}
	if c.KeepFor < 0 {
		bad("refCache.keepFor", "must not be negative")
	}
	// References that cannot be kept are told in the log when the cache is filled:
	// a file of Gitpod's that worked has to work.
	if c.NotifyTokenFile == "" {
		return
	}
	if httpAddress == "" {
		bad("refCache.notifyTokenFile", "needs http.address, the port that takes notifications")
	}
	if _, err := ReadNotifyToken(c.NotifyTokenFile); err != nil {
		bad("refCache.notifyTokenFile", "%v", err)
	}
}

// readNotifyToken reads the token without its line end.
func ReadNotifyToken(path string) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(raw))
	if len(token) < minNotifyToken {
		return "", fmt.Errorf("%s holds no token of %d characters or more", path, minNotifyToken)
	}
	return token, nil
}
