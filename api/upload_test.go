package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// memoryContexts stores contexts in memory.
type memoryContexts struct {
	mu    sync.Mutex
	files map[string][]byte
	fail  error // of Put
}

func (d *memoryContexts) Exists(_ context.Context, digest string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.files[digest] != nil, nil
}

func (d *memoryContexts) Put(_ context.Context, digest, path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail != nil {
		return d.fail
	}
	raw, err := os.ReadFile(path)
	d.files[digest] = raw
	return err
}

// maxUpload is the limit of contexts in these tests, in bytes.
const maxUpload = 1000

// uploads is a server that accepts uploads.
type uploads struct {
	store  *memoryContexts
	temp   string
	client imagebuilderv1.ImageBuilderClient
}

func newUploads(t *testing.T) *uploads {
	t.Helper()
	u := &uploads{store: &memoryContexts{files: map[string][]byte{}}, temp: t.TempDir()}
	svc := api.NewService(api.ServiceOptions{Store: buildstest.NewMachine(t).Store, Contexts: u.store, MaxContext: maxUpload, TempDir: u.temp})
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	imagebuilderv1.RegisterImageBuilderServer(g, api.Native{Service: svc})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); g.Stop(); wg.Wait() })
	u.client = imagebuilderv1.NewImageBuilderClient(conn)
	return u
}

// send uploads chunks under a digest, which the first message names. Without chunks it sends no
// message.
func (u *uploads) send(t *testing.T, digest string, chunks ...[]byte) (*imagebuilderv1.UploadContextResponse, error) {
	t.Helper()
	stream, err := u.client.UploadContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		// The server may end the stream while the client sends. CloseAndRecv returns the reason.
		if stream.Send(&imagebuilderv1.UploadContextRequest{Digest: digest, Chunk: c}) != nil {
			break
		}
		digest = ""
	}
	return stream.CloseAndRecv()
}

func digestOf(chunks ...[]byte) string {
	sum := sha256.Sum256(bytes.Join(chunks, nil))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func Test_UploadContext_IsStoredOnceUnderItsDigest(t *testing.T) {
	u := newUploads(t)
	one, two := bytes.Repeat([]byte("a"), maxUpload-1), []byte("b") // exactly the limit
	res, err := u.send(t, digestOf(one, two), one, two)
	if err != nil || res.Digest != digestOf(one, two) || res.SizeBytes != maxUpload || res.Existed {
		t.Fatalf("upload: %v, %v", res, err)
	}
	if got := u.store.files[res.Digest]; !bytes.Equal(got, append(one, two...)) {
		t.Errorf("%d bytes are stored", len(got))
	}
	if res, err = u.send(t, digestOf(one, two), nil); err != nil || !res.Existed {
		t.Errorf("again: %v, %v", res, err)
	}
	if res, err = u.send(t, digestOf(), nil); err != nil || res.SizeBytes != 0 {
		t.Errorf("an archive of no bytes: %v, %v", res, err)
	}
}

// Test_UploadContext_Refused checks which uploads are refused, and that neither a context nor a
// file is left of them.
func Test_UploadContext_Refused(t *testing.T) {
	half := bytes.Repeat([]byte("h"), maxUpload/2)
	for name, c := range map[string]struct {
		digest string
		chunks [][]byte
		fail   error
		code   codes.Code
		text   string
	}{
		"no message":           {"", nil, nil, codes.InvalidArgument, "the upload is empty"},
		"no digest":            {"", [][]byte{half}, nil, codes.InvalidArgument, "sha256: and 64 hex digits"},
		"short digest":         {"sha256:abc", [][]byte{half}, nil, codes.InvalidArgument, "sha256: and 64 hex digits"},
		"path in the digest":   {"sha256:" + strings.Repeat("../", 21) + "a", [][]byte{half}, nil, codes.InvalidArgument, "64 hex digits"},
		"another digest":       {digestOf([]byte("x")), [][]byte{half}, nil, codes.InvalidArgument, "the upload has digest " + digestOf(half)},
		"cut short":            {digestOf(half, half), [][]byte{half}, nil, codes.InvalidArgument, "not " + digestOf(half, half) + " as announced"},
		"too large":            {digestOf(half, half, half), [][]byte{half, half, half}, nil, codes.ResourceExhausted, "larger than the limit of 1000 bytes"},
		"too large by a byte":  {digestOf(half, half, half[:1]), [][]byte{half, half, half[:1]}, nil, codes.ResourceExhausted, ".dockerignore"},
		"too large at once":    {digestOf(half, half, half), [][]byte{bytes.Repeat(half, 3)}, nil, codes.ResourceExhausted, "larger than"},
		"store that is broken": {digestOf(half), [][]byte{half}, errors.New("no room"), codes.Internal, ""},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUploads(t)
			u.store.fail = c.fail
			res, err := u.send(t, c.digest, c.chunks...)
			if status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.text) {
				t.Errorf("got %v, %v, want %s with %q", res, err, c.code, c.text)
			}
			left, err := os.ReadDir(u.temp)
			if err != nil || len(left) > 0 || len(u.store.files) > 0 {
				t.Errorf("%d files are left (%v), %d contexts are stored", len(left), err, len(u.store.files))
			}
		})
	}
}
