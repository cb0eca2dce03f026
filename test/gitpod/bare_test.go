package gitpod

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Environment of a process of this test binary that is a bare server: the file with its responses,
// and its listen address.
const (
	bareResponses = "IMAGE_BUILDER_TEST_BARE_RESPONSES"
	bareAddress   = "IMAGE_BUILDER_TEST_BARE_ADDRESS"
)

// bare starts a process that returns the same encoded messages for every call of
// builder.ImageBuilder. Benchmarks compare nodes with it, because it has the cost of gRPC alone.
func bare(b *testing.B, responses ...proto.Message) builder.ImageBuilderClient {
	b.Helper()
	var file []byte
	for _, m := range responses {
		raw, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		file = append(binary.BigEndian.AppendUint32(file, uint32(len(raw))), raw...)
	}
	path, addr := filepath.Join(b.TempDir(), "responses"), testkit.FreeAddr(b)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bareResponses+"="+path, bareAddress+"="+addr)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	conn := dial(b, addr)
	b.Cleanup(func() {
		_ = conn.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	c := builder.NewImageBuilderClient(conn)
	testkit.Eventually(b, 20*time.Second, "the bare server responds", func() bool {
		ctx, cancel := context.WithTimeout(b.Context(), time.Second)
		defer cancel()
		stream, err := c.Logs(ctx, &builder.LogsRequest{})
		if err != nil {
			return false
		}
		_, err = stream.Recv()
		return err == nil
	})
	return c
}

// dial connects like Gitpod's clients, but with a higher limit for responses.
func dial(t testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// serveBare runs the bare server until the process is killed.
func serveBare(path string) {
	file, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	var responses [][]byte
	for len(file) > 0 {
		n := binary.BigEndian.Uint32(file)
		responses = append(responses, file[4:4+n])
		file = file[4+n:]
	}
	l, err := net.Listen("tcp", os.Getenv(bareAddress))
	if err != nil {
		panic(err)
	}
	g := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		var req []byte
		if err := s.RecvMsg(&req); err != nil {
			return err
		}
		for _, r := range responses {
			if err := s.SendMsg(r); err != nil {
				return err
			}
		}
		return nil
	}))
	panic(fmt.Sprint("the bare server has ended: ", g.Serve(l)))
}

// rawCodec encodes and decodes bytes without a change.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (rawCodec) Name() string { return "raw" }
