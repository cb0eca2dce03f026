package cli

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/console"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
)

// onTerminal runs the command line on a terminal of 100 columns. It returns everything written to
// the terminal, and the exit status.
func onTerminal(t *testing.T, server string, args ...string) (screen string, status int) {
	t.Helper()
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := master.Resize(console.WinSize{Width: 100, Height: 40}); err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), args...)
	cmd.Env = append(harness.CLIEnv(server), "TERM=xterm")
	cmd.Stdout, cmd.Stderr = terminal, terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close() // the command has it
	var all bytes.Buffer
	_, _ = all.ReadFrom(master) // ends with EIO once the command is gone
	_ = cmd.Wait()
	return all.String(), cmd.ProcessState.ExitCode()
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// Test_CLI_LiveSteps follows a build on a terminal. Steps are drawn with their times while they
// run, and cached steps are marked.
func Test_CLI_LiveSteps(t *testing.T) {
	w := buildkittest.Start(t, nil)
	first := w.Context(t, "FROM base\nRUN echo made earlier > /early\n", nil)
	if out, errOut, status := harness.CLI(t, w.GRPC, "build", first); status != 0 {
		t.Fatal(out, errOut)
	}
	dir := w.Context(t, "FROM base\nRUN echo made earlier > /early\nRUN echo hello from a step && sleep 3 && echo more\n", nil)
	screen, status := onTerminal(t, w.GRPC, "build", dir)
	drawn := escapes.ReplaceAllString(screen, "")
	if status != 0 {
		t.Fatalf("status %d: %s", status, drawn)
	}
	for what, want := range map[string]string{
		"a head that counts":          `\[\+\] Building \d+\.\ds \(\d+/\d+\)`,
		"a step that runs":            `=> \[3/3\] RUN echo hello from a step && sleep 3 && echo more +[012]\.\ds`,
		"its time at the end":         `=> \[3/3\] RUN echo hello from a step && sleep 3 && echo more +[3-9]\.\ds`,
		"its output":                  `=> => # hello from a step`,
		"the mark of what was cached": `=> CACHED \[2/3\] RUN echo made earlier`,
		"the end":                     `FINISHED`,
		"the digest in the last line": `(?s)succeeded after [^\n]*\n` + regexp.QuoteMeta(w.Registry.Addr) + `/workspace-images@sha256:[0-9a-f]{64}\r\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(drawn) {
			t.Errorf("the terminal does not show %s", what)
		}
	}
	if t.Failed() {
		t.Logf("%q", screen)
	}
	if strings.Contains(drawn, "#3 ") {
		t.Error("the terminal shows numbered lines of the log too")
	}
	// --progress plain writes plain lines on a terminal, too.
	plain, status := onTerminal(t, w.GRPC, "build", dir, "--force", "--progress", "plain")
	if status != 0 || strings.Contains(plain, "\x1b[") || !strings.Contains(plain, "CACHED") || !strings.Contains(harness.LastLine(plain), "@sha256:") {
		t.Errorf("plain: status %d, %q", status, plain)
	}
}

// Test_CLI_LiveStepsOfAFailure checks that the output of a failing step is shown.
func Test_CLI_LiveStepsOfAFailure(t *testing.T) {
	w := buildkittest.Start(t, nil)
	screen, status := onTerminal(t, w.GRPC, "build", w.Context(t, "FROM base\nRUN echo why it fails && exit 7\n", nil))
	drawn := escapes.ReplaceAllString(screen, "")
	if status != 1 || !strings.Contains(drawn, "=> ERROR [2/2] RUN echo why it fails") || !regexp.MustCompile(`\d\.\d+ why it fails\r\n`).MatchString(drawn) || strings.Count(drawn, "image-builder: build failed") != 1 {
		t.Errorf("status %d, %q", status, drawn)
	}
}
