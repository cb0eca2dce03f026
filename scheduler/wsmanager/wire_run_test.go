package wsmanager_test

import (
	"fmt"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

// rawCodec passes bytes unchanged.
type rawCodec struct{}

var _ encoding.Codec = rawCodec{}

func (rawCodec) Marshal(v any) ([]byte, error) {
	switch m := v.(type) {
	case []byte:
		return m, nil
	case proto.Message:
		return proto.Marshal(m)
	}
	return nil, fmt.Errorf("cannot marshal %T", v)
}

func (rawCodec) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("cannot unmarshal into %T", v)
	}
	*b = append([]byte(nil), data...)
	return nil
}

func (rawCodec) Name() string { return "proto" }

// parse returns the fields of a message by number: strings and messages as text, numbers in
// decimal.
func parse(t *testing.T, b []byte) map[protowire.Number][]string {
	t.Helper()
	out := map[protowire.Number][]string{}
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			t.Fatalf("bad tag: %v", protowire.ParseError(size))
		}
		b = b[size:]
		switch kind {
		case protowire.BytesType:
			v, size := protowire.ConsumeBytes(b)
			out[n], b = append(out[n], string(v)), b[size:]
		case protowire.VarintType:
			v, size := protowire.ConsumeVarint(b)
			out[n], b = append(out[n], fmt.Sprint(v)), b[size:]
		default:
			t.Fatalf("field %d has type %d", n, kind)
		}
	}
	return out
}

// Test_Wire_AWholeRun builds against a ws-manager that is made from the field numbers of the
// contract, without generated code.
func Test_Wire_AWholeRun(t *testing.T) {
	e := newEnv(t)
	started, stopped := make(chan []byte, 1), make(chan struct{})
	handler := func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		var req []byte
		if err := stream.RecvMsg(&req); err != nil {
			return err
		}
		switch method {
		case "/wsman.WorkspaceManager/StartWorkspace":
			started <- req
			return stream.SendMsg(msg(field{1, "http://127.0.0.1:1"}, field{2, "token"}))
		case "/wsman.WorkspaceManager/Subscribe":
			filter := parse(t, []byte(parse(t, req)[1][0]))
			if got := parse(t, []byte(filter[3][0])); got[1][0] != "managed-by" || got[2][0] != "image-builder" {
				t.Errorf("subscribes with %v", filter)
			}
			select {
			case <-stopped:
			case <-stream.Context().Done():
				return stream.Context().Err()
			}
			if err := stream.SendMsg(msg(field{1, msg(field{1, buildID}, field{4, 6}, field{5, msg()}, field{10, 9})})); err != nil {
				return err
			}
			<-stream.Context().Done()
			return stream.Context().Err()
		case "/wsman.WorkspaceManager/GetWorkspaces":
			return stream.SendMsg(msg())
		case "/wsman.WorkspaceManager/DescribeWorkspace":
			return stream.SendMsg(msg(field{1, msg(field{1, parse(t, req)[1][0]}, field{4, 4})}))
		}
		t.Errorf("call of %s", method)
		return io.ErrUnexpectedEOF
	}
	l, err := (&net.ListenConfig{}).Listen(e.ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}), grpc.UnknownServiceHandler(handler))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() { server.Stop(); <-served })
	rt := e.runtime(func(o *wsmanager.Options) { o.Address = l.Addr().String() })
	r := e.runOn(rt, dockerfileWorkload(), newSink())

	req := parse(t, <-started)
	metadata, spec := parse(t, []byte(req[3][0])), parse(t, []byte(req[4][0]))
	for name, c := range map[string]struct{ got, want string }{
		"id":                 {req[1][0], buildID},
		"service_prefix":     {req[2][0], buildID},
		"type":               {req[6][0], "4"},
		"meta_id":            {metadata[2][0], buildID},
		"owner":              {metadata[1][0], wsmanager.DefaultOwner},
		"workspace_image":    {spec[1][0], "registry.example/builder:1"},
		"workspace_location": {spec[8][0], "/workspace/b/docker"},
		"timeout":            {spec[10][0], "1h0m0s"},
		"web_ref":            {parse(t, []byte(spec[12][0]))[1][0], "registry.example/builder:1"},
		"supervisor_ref":     {parse(t, []byte(spec[12][0]))[3][0], "registry.example/supervisor:1"},
		"remote_uri":         {parse(t, []byte(parse(t, []byte(spec[4][0]))[2][0]))[1][0], "https://git.example/a/b"},
		"first variable":     {parse(t, []byte(spec[6][0]))[1][0], "BOB_TARGET_REF"},
		"its value":          {parse(t, []byte(spec[6][0]))[2][0], "localhost:8080/target:latest"},
		"secret":             {parse(t, []byte(parse(t, []byte(spec[6][9]))[3][0]))[2][0], ".dockerconfigjson"},
	} {
		if c.got != c.want {
			t.Errorf("%s is %q, want %q", name, c.got, c.want)
		}
	}
	e.img.push(ref, baseRef)
	close(stopped)
	r.succeeds(built("base-images"))
}
