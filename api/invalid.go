package api

import (
	"fmt"

	"github.com/image-builder-ha/image-builder/builds"
)

// invalidf returns an error that says what is wrong with a request; clients receive
// INVALID_ARGUMENT.
func invalidf(format string, args ...any) error {
	return &builds.InvalidError{Reason: fmt.Sprintf(format, args...)}
}
