package harness

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// CLI runs the command line against a server and returns its output and exit
// status.
func CLI(t testing.TB, server string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	return CLIWith(t, server, nil, nil, args...)
}

// CLIWith is CLI with a standard input and with additions to the environment, as
// NAME=value.
func CLIWith(t testing.TB, server string, stdin io.Reader, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Binary(t), args...)
	cmd.Env = append(CLIEnv(server), env...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// CLIEnv returns the environment in which CLI runs the command line.
func CLIEnv(server string) []string {
	return append(os.Environ(), "IMAGE_BUILDER_SERVER="+server, "USER=alice", "GORACE=atexit_sleep_ms=0")
}

// MustCLI is CLI for a command that must succeed. It returns the standard output.
func MustCLI(t testing.TB, server string, args ...string) string {
	t.Helper()
	out, errOut, status := CLI(t, server, args...)
	if status != 0 {
		t.Fatalf("%v: status %d: %s %s", args, status, out, errOut)
	}
	return out
}

// LastLine returns the last line of an output, without space around it.
func LastLine(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}
