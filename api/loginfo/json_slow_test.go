package loginfo_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/api/loginfo"
)

// port is a listener with connections that the test makes.
type port struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p port) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p port) Close() error { close(p.done); return nil }

func (port) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// pauses is a build whose log has a pause after each line. ended receives the error with which the
// stream of its reader ended.
type pauses struct {
	fakeBuilds
	pause time.Duration
	ended chan error
}

func (p *pauses) FollowLog(ctx context.Context, _ string, send func([]byte) error) (err error) {
	defer func() { p.ended <- err }()
	for range 3 {
		if err := send([]byte("line\n")); err != nil {
			return err
		}
		select {
		case <-time.After(p.pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Test_JSON_SlowReaders checks that the stream of a client that stops reading ends after 30 s, and
// that a client that waits for longer between two lines of the log gets all of it.
func Test_JSON_SlowReaders(t *testing.T) {
	tokens := newTokens(t)
	token := newToken(t, tokens, build)
	for name, reads := range map[string]bool{"takes nothing": false, "waits": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &pauses{pause: time.Minute, ended: make(chan error, 1)}
				p := port{make(chan net.Conn, 1), make(chan struct{})}
				client, server := net.Pipe() // without a buffer
				p.conns <- server
				srv := &http.Server{
					Handler:  (&loginfo.Server{Builds: b, Tokens: tokens, Streams: t.Context()}).Handler(),
					ErrorLog: log.New(io.Discard, "", 0),
				}
				served := make(chan error, 1)
				go func() { served <- srv.Serve(p) }()
				defer func() {
					_ = srv.Close()
					_ = client.Close()
					<-served
				}()
				if _, err := io.WriteString(client, "GET /_supervisor/v1/terminal/listen/build HTTP/1.1\r\nHost: h\r\n"+loginfo.TokenHeader+": "+token+"\r\n\r\n"); err != nil {
					t.Fatal(err)
				}
				if !reads {
					begin := time.Now()
					select {
					case err := <-b.ended:
						if took := time.Since(begin); !errors.Is(err, os.ErrDeadlineExceeded) || took != 30*time.Second {
							t.Errorf("the stream ended after %s: %v", took, err)
						}
					case <-time.After(time.Hour):
						t.Error("the stream goes on after an hour")
					}
					return
				}
				res, err := http.ReadResponse(bufio.NewReader(client), nil)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				dec, n := json.NewDecoder(res.Body), 0
				for ; err == nil; n++ {
					err = dec.Decode(new(any))
				}
				if n != 4 || !errors.Is(err, io.EOF) {
					t.Errorf("the reader got %d lines, then %v", n-1, err)
				}
			})
		})
	}
}
