package logs_test

import (
	"bytes"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/test/knownfault"
)

// Test_KnownFault_PeriodicSecret redacts a secret that consists of one character from output of the
// same character. The redactor must not hold back much more than the secret is long: it scans all
// that it holds back at each write.
func Test_KnownFault_PeriodicSecret(t *testing.T) {
	knownfault.Run(t, "part 4: the redactor holds back all output that repeats a secret", func(t knownfault.TB) {
		r := logs.NewRedactor([][]byte{[]byte("aaaaaa")}, nil)
		written, final := 0, 0
		for range 4 {
			_, n := r.Write(bytes.Repeat([]byte("a"), 16<<10))
			written, final = written+16<<10, final+n
		}
		if held := written - final; held > 1<<10 {
			t.Errorf("%d of %d bytes are held back", held, written)
		}
	})
}

// Test_KnownFault_PeriodicSecretStallsOtherLogs writes output that is ever more expensive to redact
// to one log, and measures when lines of another log are shown.
func Test_KnownFault_PeriodicSecretStallsOtherLogs(t *testing.T) {
	knownfault.Run(t, "part 4: the redaction of one log delays all logs", func(t knownfault.TB) {
		const limit = 250 * time.Millisecond
		s := mustOpen(t, logs.Options{})
		period := strings.Repeat("a", 32<<10) // long, so that little output is expensive
		slow, err := s.Create(key, 1, logs.NewRedactor(nil, []string{period}), false)
		if err != nil {
			t.Fatal(err)
		}
		other := logs.Key{Build: key.Build, Attempt: 2}
		w := mustCreate(t, s, other, 1)
		var worst atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 20 {
				if _, err := slow.Write([]byte(period + period)); err != nil {
					t.Errorf("write: %v", err)
				}
				if worst.Load() > int64(limit) {
					return
				}
			}
		}()
		line := []byte("a line of another log\n")
		for length, writing := int64(0), true; writing; {
			begin := time.Now()
			length += int64(len(line))
			mustWrite(t, w, line)
			readTo(t, s, other, length-1, length)
			worst.Store(max(worst.Load(), int64(time.Since(begin))))
			select {
			case <-done:
				writing = false
			default:
			}
		}
		if d := time.Duration(worst.Load()); d > limit {
			t.Errorf("a line of another log was shown after %s", d)
		}
	})
}
