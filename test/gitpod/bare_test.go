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

// What a process of this test binary is told in its environment, to be a bare
// server: the file of answers, and where to listen.
const (
	bareAnswers = "IMAGE_BUILDER_TEST_BARE_ANSWERS"
	bareAddress = "IMAGE_BUILDER_TEST_BARE_ADDRESS"
)

// bare starts a process that answers every call of builder.ImageBuilder with
// the same messages, which it has as bytes: what gRPC alone costs here.
func bare(b *testing.B, answers ...proto.Message) builder.ImageBuilderClient {
	b.Helper()
	var file []byte
	for _, m := range answers {
		raw, err := proto.Marshal(m)
		if err != nil {
			b.Fatal(err)
		}
		file = append(binary.BigEndian.AppendUint32(file, uint32(len(raw))), raw...)
	}
	path, addr := filepath.Join(b.TempDir(), "answers"), testkit.FreeAddr(b)
	if err := os.WriteFile(path, file, 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), bareAnswers+"="+path, bareAddress+"="+addr)
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
	testkit.Eventually(b, 20*time.Second, "the bare server answers", func() bool {
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

// dial connects as Gitpod's clients do, but receives more.
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

// serveBare is the bare server's process. It ends by being killed.
func serveBare(path string) {
	file, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	var answers [][]byte
	for len(file) > 0 {
		n := binary.BigEndian.Uint32(file)
		answers = append(answers, file[4:4+n])
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
		for _, a := range answers {
			if err := s.SendMsg(a); err != nil {
				return err
			}
		}
		return nil
	}))
	panic(fmt.Sprint("the bare server has ended: ", g.Serve(l)))
}

// rawCodec passes bytes on.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (rawCodec) Name() string { return "raw" }
