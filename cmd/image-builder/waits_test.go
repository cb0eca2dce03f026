package main

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
)

// Test_Waits: a command that reaches no server says what it waits for after about a second, and
// ends with status 3 after about five seconds, even if the address does not respond at all.
func Test_Waits(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() }) // after the parallel tests
	for name, server := range map[string]string{"nobody listens": "127.0.0.1:1", "no response": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			stderr := &timedBuffer{}
			root := newRootCommand()
			root.SetErr(stderr)
			root.SetArgs([]string{"list", "--server", server})
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			code, text, _ := cli.ExitStatus(root.ExecuteContext(ctx))
			if code != cli.ExitUnavailable || text == nil {
				t.Errorf("the exit status is %d with %v, want %d", code, text, cli.ExitUnavailable)
			}
			got, at := stderr.content()
			if want := "image-builder: connecting to " + server + ", for up to 5s\n"; got != want {
				t.Errorf("standard error has %q, want %q", got, want)
			}
			if first, all := at.Sub(began), time.Since(began); first < 900*time.Millisecond || first >= all {
				t.Errorf("the line appears after %s of %s", first, all)
			}
		})
	}
}

// timedBuffer keeps text and the time of the first write.
type timedBuffer struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	first time.Time
}

func (b *timedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.first.IsZero() {
		b.first = time.Now()
	}
	return b.buf.Write(p)
}

func (b *timedBuffer) content() (string, time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String(), b.first
}
