package logs

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Key names the log of one attempt.
type Key struct {
	Build   string
	Attempt uint32 // from 1
}

// validBuild keeps a build id from naming a file outside of the directory.
var validBuild = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

func (k Key) validate() error {
	if !validBuild.MatchString(k.Build) || k.Attempt == 0 {
		return fmt.Errorf("log of build %.64q attempt %d: %w", k.Build, k.Attempt, ErrNotFound)
	}
	return nil
}

// segmentName is <build>.<attempt>.<index>.log, so that byte order is order.
func segmentName(key Key, index uint64) string {
	return fmt.Sprintf("%s.%d.%08d.log", key.Build, key.Attempt, index)
}

func parseName(name string) (Key, bool) {
	parts := strings.Split(name, ".")
	if len(parts) != 4 || parts[3] != "log" {
		return Key{}, false
	}
	n, err := strconv.ParseUint(parts[1], 10, 32)
	key := Key{parts[0], uint32(n)}
	return key, err == nil && key.validate() == nil
}
