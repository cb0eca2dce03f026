//go:build faults

package logs

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Logs_Retention lets a node remove the log of a build that has ended. Readers see the marker,
// the build stays, and the file is deleted.
func Test_Logs_Retention(t *testing.T) {
	w := newLogCluster(t, 1, "echo a line of output", false, harness.Config{
		"logs": map[string]any{"retention": "3s"}, "history": map[string]any{"minAge": "1s"},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	b := w.build(ctx)
	w.await(ctx, b.Id, func(b *imagebuilderv1.Build) bool { return b.EndedAt != nil })
	if text, err := w.Nodes[0].ReadLog(ctx, b.Id, 0); err != nil || !strings.Contains(text, "a line of output") {
		t.Errorf("before: %q, %v", text, err)
	}
	w.await(ctx, b.Id, func(b *imagebuilderv1.Build) bool {
		return b.Attempts[0].Log.State == imagebuilderv1.LogState_LOG_STATE_EXPIRED
	})
	text, err := w.Nodes[0].ReadLog(ctx, b.Id, 0)
	if err != nil || !strings.Contains(text, "the log of attempt 1 was removed by retention") || strings.Contains(text, "a line of output") {
		t.Errorf("after: %q, %v", text, err)
	}
	testkit.Eventually(t, 90*time.Second, "the file is gone", func() bool {
		files, err := filepath.Glob(filepath.Join(w.Nodes[0].Dir, "data", "logs", b.Id+".*"))
		return err == nil && len(files) == 0
	})
	if body, _ := w.Nodes[0].Get("http://" + w.Nodes[0].Metrics + "/metrics"); !strings.Contains(body, "\nimage_builder_logs_expired_total 1\n") {
		t.Error("the metric does not count it")
	}
}
