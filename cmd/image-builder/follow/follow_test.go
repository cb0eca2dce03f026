package follow

import (
	"testing"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Failure_NamesThePhaseOnce checks messages that begin with the phase and others.
func Test_Failure_NamesThePhaseOnce(t *testing.T) {
	for _, message := range []string{"build failed: no such stage", "no such stage"} {
		err := failure(&imagebuilderv1.Build{Phase: imagebuilderv1.Phase_PHASE_FAILED, Blame: imagebuilderv1.Blame_BLAME_USER, Message: message})
		if got := err.Error(); got != "build failed: no such stage (user)" {
			t.Errorf("%q is printed as %q", message, got)
		}
	}
}
