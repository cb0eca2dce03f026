package follow

import (
	"testing"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_BuildFailed_SaysItOnce: messages of builds say themselves that they
// failed.
func Test_BuildFailed_SaysItOnce(t *testing.T) {
	for _, message := range []string{"build failed: no such stage", "no such stage"} {
		err := failed(&imagebuilderv1.Build{Phase: imagebuilderv1.Phase_PHASE_FAILED, Blame: imagebuilderv1.Blame_BLAME_USER, Message: message})
		if got := err.Error(); got != "build failed: no such stage (user)" {
			t.Errorf("%q is told as %q", message, got)
		}
	}
}
