package logs

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Test_Redact_DelaysNoOtherLog stops the redaction of one log while the automaton of its long secret
// is built. Lines of another log must become visible meanwhile: the flush of all logs must not wait
// for the redaction of one.
func Test_Redact_DelaysNoOtherLog(t *testing.T) {
	s, err := Open(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const build = "0190a0b0-0000-7000-8000-000000000001"
	secret := strings.Repeat("0123456789", 20)
	p := NewPatterns([][]byte{[]byte(secret)}, nil)
	slow, err := s.Create(Key{build, 1}, 1, p.Redactor(), false)
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Create(Key{build, 2}, 1, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	begun, release, built := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(built)
		for _, tail := range p.plain.tails {
			if string(tail.texts[0]) == secret {
				tail.once.Do(func() {
					close(begun)
					<-release
					a := newAutomaton(len(secret))
					a.add([]byte(secret), true)
					a.link()
					tail.whole = a
				})
			}
		}
	}()
	<-begun
	wrote := make(chan error, 1)
	go func() {
		_, err := slow.Write([]byte("before " + secret + " after\n"))
		wrote <- err
	}()
	for slow.redacting.TryLock() {
		slow.redacting.Unlock()
		runtime.Gosched()
	}
	r, err := s.Reader(t.Context(), other.l.key, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 20 {
		s.sync.dirty(slow, true)
		if _, err := other.Write([]byte("a line\n")); err != nil {
			t.Error(err)
		}
		if _, _, err := r.Next(ctx); err != nil {
			t.Errorf("a line of another log is not shown while a log is redacted: %v", err)
			break
		}
	}
	close(release)
	<-built
	if err := <-wrote; err != nil {
		t.Error(err)
	}
	length, _, err := slow.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own, err := s.Reader(t.Context(), slow.l.key, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	var got bytes.Buffer
	for int64(got.Len()) < length {
		chunk, _, err := own.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got.Write(chunk)
	}
	if got.String() != "before [redacted] after\n" {
		t.Errorf("the log has %q", got.String())
	}
}
