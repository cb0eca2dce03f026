package node

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cluster"
)

// Test_Restore_ForwardedErrors checks what a node that does not lead reports about a restore: the
// response of the leader, or that the outcome is unknown.
func Test_Restore_ForwardedErrors(t *testing.T) {
	for _, c := range []struct {
		code    codes.Code
		text    string
		unknown bool
	}{
		{codes.Unavailable, "error reading from server: EOF", true},
		{codes.Canceled, "context canceled", true},
		{codes.Unavailable, fmt.Sprintf("restore the snapshot: %v: no leader", cluster.ErrNotRestored), false},
		{codes.FailedPrecondition, fmt.Sprintf("restore the snapshot: %v: the disk is full", cluster.ErrNotRestored), false},
		{codes.Unavailable, fmt.Sprintf("restore the snapshot: %v", cluster.ErrOutcomeUnknown), true},
		{codes.Unavailable, restoredBut + "something is missing", false},
		{codes.ResourceExhausted, "the snapshot is too large", false},
	} {
		got := status.Convert(forwardedRestoreError(status.Error(c.code, c.text)))
		if got.Code() != c.code && !c.unknown || !strings.Contains(got.Message(), c.text) || strings.Contains(got.Message(), cluster.ErrOutcomeUnknown.Error()) != c.unknown {
			t.Errorf("%s %q becomes %s %q", c.code, c.text, got.Code(), got.Message())
		}
	}
}
