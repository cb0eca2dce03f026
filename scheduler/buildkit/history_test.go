package buildkit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"golang.org/x/sync/errgroup"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Run_LeavesNoHistory runs steps that print confidential text, which the daemon would
// otherwise keep for days.
func Test_Run_LeavesNoHistory(t *testing.T) {
	const printed, shown = "printed-by-a-step-and-nowhere-else", "[redacted]"
	root := t.TempDir()
	d, err := buildkit.StartDaemon(t.Context(), buildkit.DaemonOptions{Binary: buildkitd(t), Root: root, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	r := newRigOn(t, d)
	dockerfile := func(then string) map[string]string {
		return map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN --mount=type=secret,id=s cat /run/secrets/s && " + then + "\n"}
	}
	secret := func(src *imagebuilderv1.DockerfileSource) { src.SecretIds = []string{"s"} }

	ok := r.upload(t, dockerfile("true"), secret)
	ok.Secrets.Build = map[string][]byte{"s": []byte(printed)}
	if _, s := r.mustRun(t, ok); !strings.Contains(s.text(), shown) {
		t.Fatalf("the step did not print: %s", s.text())
	}
	fails := r.upload(t, dockerfile("false"), secret)
	fails.Secrets.Build = ok.Secrets.Build
	r.mustFail(t, fails, imagebuilderv1.Blame_BLAME_USER)

	stopped := r.upload(t, dockerfile("sleep 60"), secret)
	stopped.Secrets.Build = ok.Secrets.Build
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, ended := &sink{}, make(chan error, 1)
	go func() {
		_, err := r.Run(ctx, stopped, s)
		ended <- err
	}()
	testkit.Eventually(t, 20*time.Second, "the step prints", func() bool { return strings.Contains(s.text(), shown) })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}

	if left := history(t, d.Addr()); len(left) > 0 {
		t.Errorf("the daemon remembers %d solves: %v", len(left), left)
	}
	files := 0
	if err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte(printed)) {
			t.Errorf("the output of a step is left in %s", path)
		}
		files++
		return err
	}); err != nil || files == 0 {
		t.Fatal(files, err)
	}
}

// Test_Forget_AtOnce removes the same records from several nodes at once. A record that another
// node has removed first is no error.
func Test_Forget_AtOnce(t *testing.T) {
	r := newRigOn(t, startDaemon(t))
	c, err := client.New(t.Context(), r.opts.Daemons[0].URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	def, err := llb.Scratch().File(llb.Mkdir("/a", 0o755)).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		// A reference in the form that nodes use.
		opt := client.SolveOpt{Ref: fmt.Sprintf("ib-build%d-1.ABCDEFGHIJKLMNOPQRSTUVWXYZ", i)}
		if _, err := c.Solve(t.Context(), def, opt, nil); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, 20*time.Second, "the daemon remembers the solves", func() bool { return len(history(t, r.opts.Daemons[0].URL)) == 10 })
	var nodes errgroup.Group
	for range 8 {
		nodes.Go(func() error { return buildkit.Forget(t.Context(), r.Runtime) })
	}
	if err := nodes.Wait(); err != nil {
		t.Error(err)
	}
	if left := history(t, r.opts.Daemons[0].URL); len(left) > 0 {
		t.Errorf("the daemon remembers %v", left)
	}
}

// history returns the references of the solves in the history of a daemon.
func history(t *testing.T, addr string) (refs []string) {
	t.Helper()
	c, err := client.New(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	stream, err := c.ControlClient().ListenBuildHistory(t.Context(), &controlapi.BuildHistoryRequest{EarlyExit: true})
	if err != nil {
		t.Fatal(err)
	}
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return refs
		}
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, e.Record.Ref)
	}
}
