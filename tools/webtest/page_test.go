//go:build faults

// Package webtest tests the web page in a real browser while nodes are killed. It is a separate
// module, so that the service does not depend on browser packages.
package webtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

const (
	lines  = 500
	script = `echo '<img src="x" onerror="document.title=1"><b>not bold</b>'
i=0; while [ $i -lt 500 ]; do i=$((i+1)); printf '\033[32mline %d\033[0m \342\202\254\n' $i; sleep 0.05; done`
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveBinary()
	os.Exit(code)
}

// browser is a tab of a headless Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context

	mu  sync.Mutex
	bad []string // exceptions, and violations of the content security policy
}

func open(t *testing.T) *browser {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.WindowSize(1280, 900))
	alloc, stop := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(stop)
	b := &browser{t: t}
	ctx, cancel := chromedp.NewContext(alloc, chromedp.WithListener(b.onEvent))
	t.Cleanup(cancel)
	b.ctx = ctx
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil { // starts the browser
		t.Fatal(err)
	}
	return b
}

// onEvent records exceptions and violations of the content security policy.
func (b *browser) onEvent(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *runtime.EventExceptionThrown:
		b.bad = append(b.bad, fmt.Sprintf("%s: %+v", ev.ExceptionDetails.Text, ev.ExceptionDetails.Exception))
	case *log.EventEntryAdded:
		if ev.Entry.Source == log.EntrySourceSecurity {
			b.bad = append(b.bad, ev.Entry.Text)
		}
	}
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// eval runs a script in the page and returns its result.
func eval[T any](b *browser, script string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script))
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *browser) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf(`document.querySelector(%q)?.textContent ?? ""`, selector))
}

func (b *browser) await(what, selector string, ok func(string) bool) {
	b.t.Helper()
	testkit.Eventually(b.t, time.Minute, what, func() bool { return ok(b.text(selector)) })
}

// shot saves a screenshot in the directory $SCREENSHOTS, if it is set.
func (b *browser) shot(name string) {
	b.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err := errors.Join(err, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)); err != nil {
		b.t.Error(err)
	}
}

func contains(s string) func(string) bool {
	return func(text string) bool { return strings.Contains(text, s) }
}

// Test_Page follows a log in the page while first the node that serves the page and then the owner
// of the build are killed. The log continues, has each line once, and is never interpreted as
// markup. The other views show builds, nodes, the queue and cached references.
func Test_Page(t *testing.T) {
	t.Setenv("IMAGE_BUILDER_TEST_RUNTIME", t.TempDir())
	t.Setenv("IMAGE_BUILDER_TEST_SCRIPT", script)
	t.Setenv("IMAGE_BUILDER_TEST_SURVIVES", "1")
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, "cat"))
	c := harness.NewCluster(t, 3, reg.Addr, nil)
	pages := map[string]string{}
	var all []string
	for _, n := range c.Nodes {
		addr := testkit.FreeAddr(t)
		pages[n.Name] = "http://" + addr
		all = append(all, "http://"+addr)
		n.Override(harness.Config{"http": map[string]any{"address": addr}})
	}
	c.Override(harness.Config{"http": map[string]any{"nodes": all}})
	for _, n := range c.Nodes {
		n.Launch()
	}
	for _, n := range c.Nodes {
		n.AwaitReady()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	res, err := c.Nodes[0].Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
		Requester: "r", Source: harness.RefSource(reg.Addr + "/library/busybox:1"), Force: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	id := res.Build.Id
	var owner *harness.Node
	testkit.Eventually(t, time.Minute, "the build runs", func() bool {
		res, err := c.Nodes[0].Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
		if err != nil || len(res.Build.Attempts) == 0 {
			return false
		}
		for _, n := range c.Nodes {
			if n.Name == res.Build.Attempts[0].Owner {
				owner = n
			}
		}
		return owner != nil
	})
	serves := c.Others(owner)[0]

	b := open(t)
	b.do(chromedp.Navigate(pages[serves.Name] + "/ui/"))
	b.await("the list shows the build", "main table", contains(id[:13]))
	b.do(chromedp.Click("main table a"))
	b.await("the page follows the log", "#log", contains("line 20 €"))
	b.shot("build-runs")
	before := shown(b.text("#log"))
	serves.Kill9()
	serves.AwaitExit()
	b.await("the log goes on after its node was killed", "#log", func(s string) bool { return shown(s) > before+20 })
	b.shot("node-killed")
	serves.Run()
	before = shown(b.text("#log"))
	owner.Kill9()
	owner.AwaitExit()
	b.await("the log goes on after the owner was killed", "#log", func(s string) bool { return shown(s) > before+20 })
	b.do(chromedp.WaitVisible("#log[data-ended]"))
	b.await("the page shows the final phase", "main dl", contains("succeeded"))
	b.shot("build-ended")
	// Skip the markers, which are lines of the service.
	own := eval[string](b, `[...document.querySelectorAll("#log > span:not(.marker)")].map((e) => e.textContent).join("")`)
	if !strings.Contains(own, `<img src="x" onerror="document.title=1"><b>not bold</b>`) {
		t.Errorf("markup in a log is not shown as text: %.200q", own)
	}
	n := 0
	for _, m := range regexp.MustCompile(`(?m)^line (\d+) €$`).FindAllStringSubmatch(own, -1) {
		if n++; m[1] != strconv.Itoa(n) {
			t.Fatalf("after line %d comes line %s", n-1, m[1])
		}
	}
	if n != lines {
		t.Errorf("%d lines were shown, the build printed %d", n, lines)
	}
	file, err := c.Running()[0].ReadLog(ctx, id, 1)
	if err != nil || strings.Count(file, "line ") != lines {
		t.Errorf("the log has %d lines, %v", strings.Count(file, "line "), err)
	}

	owner.Run()
	for _, v := range []struct{ name, want string }{{"queue", "The queue is empty"}, {"cache", "No references"}, {"builds?phase=succeeded", id[:13]}, {"nodes", "The leader is"}} {
		eval[string](b, fmt.Sprintf("location.hash = %q", "#/"+v.name))
		b.await("the view shows its content: "+v.name, "main", contains(v.want))
		name, _, _ := strings.Cut(v.name, "?")
		b.shot("view-" + name)
	}
	b.await("three nodes are alive", "main table", func(s string) bool { return strings.Count(s, "alive") == 3 })
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, what := range b.bad {
		t.Errorf("the browser reports: %s", what)
	}
}

// shown returns the number of the last line in the text of a log, or 0.
func shown(log string) int {
	all := regexp.MustCompile(`line (\d+) €`).FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(all[len(all)-1][1])
	return n
}
