//go:build kubernetes

package kubelet_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Kubelet_LongOutput: a step prints 600 MB while the owner of its pod is killed three times, the
// last time after the log has reached its limit. The log is complete up to the limit, and says once
// that it is truncated. It runs with SOAK only.
func Test_Kubelet_LongOutput(t *testing.T) {
	if !testkit.Soak() {
		t.Skip("takes minutes: runs with SOAK")
	}
	const limit, blocks, lines = 256 << 20, 600, 1000 // of about 1,000 bytes
	s := newInstall(t, installOptions{})
	pods := s.census()
	id := s.build(s.Nodes[0], "long", fmt.Sprintf(`FROM base
RUN P=$(yes x | head -n 980 | tr -d '\n'); for a in $(seq %d); do for b in $(seq %d); do echo line-$a-$b. $P; done; done
`, blocks, lines))
	for _, at := range []int64{64 << 20, 160 << 20, limit} {
		testkit.Eventually(t, 10*time.Minute, fmt.Sprintf("the log has %d bytes", at), func() bool {
			return s.reached(s.Running()[0], id, at) // no reader follows the log meanwhile
		})
		victim := s.owner(s.Nodes[0], id, nil)
		if victim == nil {
			t.Fatalf("no node runs the build with %d bytes of its log", at)
		}
		victim.Kill()
		victim.Run()
		t.Logf("killed the owner %s at %d bytes", victim.Name, at)
	}
	ctx := testkit.Context(t, 15*time.Minute)
	b := s.Nodes[0].Wait(t, ctx, id)
	if b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED || len(b.GetAttempts()) != 1 {
		t.Fatalf("the build: %s with %d attempts: %s", b.GetPhase(), len(b.GetAttempts()), b.GetMessage())
	}
	first := ""
	for _, n := range s.Nodes {
		log, err := harness.Persist(ctx, func(ctx context.Context) (string, error) { return n.ReadLog(ctx, id, 0) })
		switch {
		case err != nil:
			t.Fatalf("read the log from %s: %v", n.Name, err)
		case first == "":
			first = log
		case log != first:
			t.Errorf("%s returns another log: %d bytes, before %d", n.Name, len(log), len(first))
		}
	}
	if n := strings.Count(first, "--- log truncated: the limit of "); n != 1 || len(first) < limit || len(first) > limit+1000 {
		t.Errorf("the log has %d bytes and says %d times that it is truncated", len(first), n)
	}
	a, k := 1, 1
	for line := range strings.Lines(first[:min(len(first), limit)]) {
		_, rest, ok := strings.Cut(line, " line-")
		if !ok || strings.HasPrefix(rest, "$") || !strings.HasSuffix(line, "\n") { // another step, the command, or the cut line
			continue
		}
		if want := fmt.Sprintf("%d-%d. x", a, k); !strings.HasPrefix(rest, want) {
			t.Fatalf("after %d-%d comes %.80q", a, k-1, line)
		}
		if k++; k > lines {
			a, k = a+1, 1
		}
	}
	t.Logf("the log has %d bytes, up to line %d of block %d", len(first), k, a)
	if a < 200 {
		t.Errorf("the log ends in block %d", a)
	}
	if n := pods.count(); n != 1 {
		t.Errorf("there were %d pods", n)
	}
	s.tidy()
}

// reached reports whether a log has at least so many bytes.
func (s *install) reached(n *harness.Node, id string, length int64) bool {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	stream, err := n.Native.BuildLogs(ctx, &imagebuilderv1.BuildLogsRequest{Build: &imagebuilderv1.BuildLogsRequest_Id{Id: id}, Attempt: 1, Offset: length - 1})
	if err != nil {
		return false
	}
	m, err := stream.Recv()
	return err == nil && len(m.Content) > 0 && !m.Marker
}
