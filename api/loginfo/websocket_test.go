package loginfo_test

import (
	"context"
	"encoding/binary"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// webCall is the client side of one grpc-web call over a WebSocket, at the level of bytes.
type webCall struct {
	t    *testing.T
	ctx  context.Context
	conn *websocket.Conn
}

// dial opens a WebSocket for a call.
func (w *world) dial(root, method string) *webCall {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	w.t.Cleanup(cancel)
	conn, res, err := websocket.Dial(ctx, w.url+root+"/_supervisor/v1/"+method, &websocket.DialOptions{
		Subprotocols: []string{"grpc-websockets"}, HTTPHeader: http.Header{"Origin": {"https://gitpod.example.com"}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if res.Body != nil {
		_ = res.Body.Close()
	}
	w.t.Cleanup(func() { _ = conn.CloseNow() })
	return &webCall{w.t, ctx, conn}
}

// write sends one message.
func (c *webCall) write(b []byte) {
	c.t.Helper()
	if err := c.conn.Write(c.ctx, websocket.MessageBinary, b); err != nil {
		c.t.Fatal(err)
	}
}

// request sends the headers, one request, and the end of the requests.
func (c *webCall) request(token string, message []byte) *webCall {
	c.t.Helper()
	c.write([]byte("content-type: application/grpc-web+proto\r\nx-grpc-web: 1\r\nx-gitpod-owner-token: " + token + "\r\n"))
	frame := binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(len(message)))
	c.write(append(frame, message...))
	c.write([]byte{1})
	return c
}

// frame reads one frame and returns its kind and its content.
func (c *webCall) frame() (byte, string) {
	c.t.Helper()
	_, raw, err := c.conn.Read(c.ctx)
	if err != nil || len(raw) < 5 || int(binary.BigEndian.Uint32(raw[1:])) != len(raw)-5 {
		c.t.Fatalf("frame %q: %v", raw, err)
	}
	return raw[0], string(raw[5:])
}

// expect reads a frame and checks its kind and a part of its content.
func (c *webCall) expect(kind byte, content string) {
	c.t.Helper()
	if k, got := c.frame(); k != kind || !strings.Contains(got, content) {
		c.t.Fatalf("frame %#x %q, want %#x with %q", k, got, kind, content)
	}
}

// closed checks that the server closes the connection.
func (c *webCall) closed() {
	c.t.Helper()
	if _, raw, err := c.conn.Read(c.ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		c.t.Errorf("after the trailers: %q, %v", raw, err)
	}
}

func Test_WebSocket_Listen(t *testing.T) {
	for name, root := range roots {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.b.log <- "one\n"
			c := w.dial(root, listenMethod).request(w.token, []byte(message(1, "build")))
			c.expect(0x80, "content-type: application/grpc-web+proto\r\n")
			c.expect(0, message(1, "one\n"))
			w.b.log <- "two\n"
			c.expect(0, message(1, "two\n"))
			close(w.b.log)
			c.expect(0x80, "grpc-status: 0\r\n")
			c.closed()
		})
	}
}

func Test_WebSocket_Tasks(t *testing.T) {
	task := func(state byte) string {
		inner := message(1, "build")
		if state > 0 {
			inner += string([]byte{2 << 3, state})
		}
		return message(1, inner+message(3, "build"))
	}
	w := newWorld(t)
	observe := []byte{1 << 3, 1}
	w.b.phase <- &imagebuilderv1.Build{Id: build, Phase: builds.Queued}
	c := w.dial("", tasksMethod).request(w.token, observe)
	c.expect(0x80, "content-type")
	c.expect(0, task(0))
	w.b.phase <- running()
	w.b.phase <- running() // nothing has changed
	w.b.phase <- &imagebuilderv1.Build{Id: build, Phase: builds.Succeeded}
	c.expect(0, task(1))
	c.expect(0, task(2))
	c.expect(0x80, "grpc-status: 0\r\n")
	c.closed()

	w.b.phase <- running() // without observe: only the first status
	c = w.dial("", tasksMethod).request(w.token, nil)
	c.expect(0x80, "content-type")
	c.expect(0, task(1))
	c.expect(0x80, "grpc-status: 0\r\n")
}

func Test_WebSocket_Refusals(t *testing.T) {
	w := newWorld(t)
	foreign := newToken(t, w.tokens, "0192d3c4-5e6f-7a8b-9c0d-1e2f3a4b5c6e")
	c := w.dial("/builds/"+build, listenMethod).request(foreign, []byte(message(1, "build")))
	c.expect(0x80, "grpc-status: 16\r\n")
	c = w.dial("", listenMethod).request("nonsense", []byte(message(1, "build")))
	c.expect(0x80, "grpc-status: 16\r\n")
	c = w.dial("", listenMethod).request(w.token, []byte(message(1, "2")))
	c.expect(0x80, "content-type")
	c.expect(0x80, "grpc-status: 5\r\n")
	c = w.dial("", listenMethod).request(w.token, []byte{0xff})
	c.expect(0x80, "content-type")
	c.expect(0x80, "grpc-status: 3\r\n")
	c = w.dial("", listenMethod)
	c.write([]byte("x-gitpod-owner-token: " + w.token + "\r\n"))
	c.write([]byte("no frame"))
	c.expect(0x80, "grpc-status: 3\r\n")
}

// Test_WebSocket_Ends checks that the stream of a client that disconnects ends, and that a node
// that stops ends its streams with UNAVAILABLE.
func Test_WebSocket_Ends(t *testing.T) {
	w := newWorld(t)
	c := w.dial("", listenMethod).request(w.token, []byte(message(1, "build")))
	c.expect(0x80, "content-type")
	_ = c.conn.CloseNow()
	select {
	case <-w.b.gone:
	case <-c.ctx.Done():
		t.Fatal("the stream of a client that went away goes on")
	}
	c = w.dial("", listenMethod).request(w.token, []byte(message(1, "build")))
	c.expect(0x80, "content-type")
	w.stop()
	c.expect(0x80, "grpc-status: 14\r\n")
}
