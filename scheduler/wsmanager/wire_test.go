package wsmanager_test

import (
	"encoding/hex"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/image-builder-ha/image-builder/proto/contentservice"
	"github.com/image-builder-ha/image-builder/proto/supervisor"
	"github.com/image-builder-ha/image-builder/proto/wsman"
)

// field is one field on the wire: a number and a string, a uint64 or a message.
type field struct {
	n protowire.Number
	v any
}

// msg encodes fields without generated code.
func msg(fields ...field) []byte {
	var b []byte
	for _, f := range fields {
		switch v := f.v.(type) {
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, f.n, protowire.BytesType), v)
		case []byte:
			b = protowire.AppendBytes(protowire.AppendTag(b, f.n, protowire.BytesType), v)
		case int:
			b = protowire.AppendVarint(protowire.AppendTag(b, f.n, protowire.VarintType), uint64(v))
		}
	}
	return b
}

func entry(k, v string) []byte { return msg(field{1, k}, field{2, v}) }

// wireStatus returns an encoded WorkspaceStatus with every field of the contract, and some unknown
// ones.
func wireStatus() []byte {
	return msg(
		field{1, "id"},
		field{2, msg(field{1, "owner"}, field{2, "meta"}, field{3, msg(field{1, 7})}, field{4, entry("ref", "r")}, field{5, "team"}, field{6, "project"})},
		field{3, msg(field{1, "image"}, field{3, 1}, field{4, "https://ws"}, field{6, 4}, field{7, "60m"}, field{8, msg(field{1, "web"}, field{3, "sup"})}, field{9, "class"})},
		field{4, 5},
		field{5, msg(field{1, "failed"}, field{2, "timeout"}, field{3, 1}, field{7, 2}, field{10, "task"}, field{11, 1}, field{13, 1})},
		field{6, "message"},
		field{8, msg(field{1, "node"}, field{2, "pod"}, field{3, "10.0.0.1"})},
		field{9, msg(field{1, 1}, field{2, "token"})},
		field{10, 77},
		field{99, "unknown"},
	)
}

func Test_Wire_Status(t *testing.T) {
	var got wsman.SubscribeResponse
	if err := proto.Unmarshal(msg(field{1, wireStatus()}, field{3, entry("h", "v")}), &got); err != nil {
		t.Fatal(err)
	}
	team, project := "team", "project"
	want := &wsman.WorkspaceStatus{
		Id: "id", Phase: wsman.WorkspacePhase_STOPPING, Message: "message", StatusVersion: 77,
		Metadata: &wsman.WorkspaceMetadata{Owner: "owner", MetaId: "meta", StartedAt: got.GetStatus().GetMetadata().GetStartedAt(), Annotations: map[string]string{"ref": "r"}, Team: &team, Project: &project},
		Spec:     &wsman.WorkspaceSpec{WorkspaceImage: "image", Headless: true, Url: "https://ws", Type: wsman.WorkspaceType_IMAGEBUILD, Timeout: "60m", IdeImage: &wsman.IDEImage{WebRef: "web", SupervisorRef: "sup"}, Class: "class"},
		Conditions: &wsman.WorkspaceConditions{
			Failed: "failed", Timeout: "timeout", PullingImages: wsman.WorkspaceConditionBool_TRUE, Deployed: wsman.WorkspaceConditionBool_EMPTY,
			HeadlessTaskFailed: "task", StoppedByRequest: wsman.WorkspaceConditionBool_TRUE, Aborted: wsman.WorkspaceConditionBool_TRUE,
		},
		Runtime: &wsman.WorkspaceRuntimeInfo{NodeName: "node", PodName: "pod", NodeIp: "10.0.0.1"},
		Auth:    &wsman.WorkspaceAuthentication{OwnerToken: "token"},
	}
	if got.GetStatus().GetMetadata().GetStartedAt().GetSeconds() != 7 || got.GetHeader()["h"] != "v" {
		t.Errorf("started_at or header: %v", &got)
	}
	got.Status.ProtoReflect().SetUnknown(nil)
	got.Status.Auth.ProtoReflect().SetUnknown(nil) // admission
	if d := cmp.Diff(want, got.Status, protocmp.Transform()); d != "" {
		t.Error(d)
	}
}

func Test_Wire_Requests(t *testing.T) {
	filter := &wsman.MetadataFilter{Owner: "o", MetaId: "m", Annotations: map[string]string{"managed-by": "image-builder"}}
	wireFilter := msg(field{1, "o"}, field{2, "m"}, field{3, entry("managed-by", "image-builder")})
	for name, c := range map[string]struct {
		m    proto.Message
		want []byte
	}{
		"get":       {&wsman.GetWorkspacesRequest{MustMatch: filter}, msg(field{1, wireFilter})},
		"subscribe": {&wsman.SubscribeRequest{MustMatch: filter}, msg(field{1, wireFilter})},
		"describe":  {&wsman.DescribeWorkspaceRequest{Id: "i"}, msg(field{1, "i"})},
		"described": {&wsman.DescribeWorkspaceResponse{Status: &wsman.WorkspaceStatus{Id: "i"}, LastActivity: "l"}, msg(field{1, msg(field{1, "i"})}, field{2, "l"})},
		"listed":    {&wsman.GetWorkspacesResponse{Status: []*wsman.WorkspaceStatus{{Id: "i"}}}, msg(field{1, msg(field{1, "i"})})},
		"stop":      {&wsman.StopWorkspaceRequest{Id: "i", Policy: wsman.StopWorkspacePolicy_ABORT}, msg(field{1, "i"}, field{2, 2})},
		"started":   {&wsman.StartWorkspaceResponse{Url: "u", OwnerToken: "t"}, msg(field{1, "u"}, field{2, "t"})},
		"start": {
			&wsman.StartWorkspaceRequest{
				Id: "i", ServicePrefix: "p", Metadata: &wsman.WorkspaceMetadata{Owner: "o"}, Type: wsman.WorkspaceType_IMAGEBUILD,
				Spec: &wsman.StartWorkspaceSpec{
					WorkspaceImage: "w", WorkspaceLocation: "l", Timeout: "60m", IdeImage: &wsman.IDEImage{WebRef: "web", SupervisorRef: "sup"}, Class: "c", MaximumLifetime: "2h",
					Initializer: &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Empty{Empty: &contentservice.EmptyInitializer{}}},
					Envvars:     []*wsman.EnvironmentVariable{{Name: "n", Value: "v", Secret: &wsman.EnvironmentVariable_SecretKeyRef{SecretName: "s", Key: "k"}}},
					SysEnvvars:  []*wsman.EnvironmentVariable{{Name: "sys"}},
				},
			},
			msg(
				field{1, "i"}, field{2, "p"}, field{3, msg(field{1, "o"})},
				field{4, msg(
					field{1, "w"}, field{4, msg(field{1, ""})}, field{6, msg(field{1, "n"}, field{2, "v"}, field{3, msg(field{1, "s"}, field{2, "k"})})},
					field{8, "l"}, field{10, "60m"}, field{12, msg(field{1, "web"}, field{3, "sup"})}, field{13, "c"}, field{16, msg(field{1, "sys"})}, field{19, "2h"},
				)},
				field{6, 4},
			),
		},
		"tasks":  {&supervisor.TasksStatusRequest{Observe: true}, msg(field{1, 1})},
		"task":   {&supervisor.TasksStatusResponse{Tasks: []*supervisor.TaskStatus{{Id: "i", State: supervisor.TaskState_closed, Terminal: "t"}}}, msg(field{1, msg(field{1, "i"}, field{2, 2}, field{3, "t"})})},
		"listen": {&supervisor.ListenToOutputRequest{TaskId: "i"}, msg(field{1, "i"})},
		"output": {&supervisor.ListenToOutputResponse{Data: []byte("d")}, msg(field{1, "d"})},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.m)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(c.want) {
				t.Errorf("on the wire:\n%s\nwant:\n%s", hex.Dump(got), hex.Dump(c.want))
			}
		})
	}
}

func Test_Wire_Methods(t *testing.T) {
	for want, desc := range map[string]grpc.ServiceDesc{
		"wsman.WorkspaceManager":   wsman.WorkspaceManager_ServiceDesc,
		"supervisor.StatusService": supervisor.StatusService_ServiceDesc,
		"supervisor.TaskService":   supervisor.TaskService_ServiceDesc,
	} {
		if desc.ServiceName != want {
			t.Errorf("service %s, want %s", desc.ServiceName, want)
		}
	}
	got := []string{
		wsman.WorkspaceManager_StartWorkspace_FullMethodName, wsman.WorkspaceManager_StopWorkspace_FullMethodName,
		wsman.WorkspaceManager_DescribeWorkspace_FullMethodName, wsman.WorkspaceManager_GetWorkspaces_FullMethodName,
		wsman.WorkspaceManager_Subscribe_FullMethodName, supervisor.StatusService_TasksStatus_FullMethodName, supervisor.TaskService_ListenToOutput_FullMethodName,
	}
	want := []string{
		"/wsman.WorkspaceManager/StartWorkspace", "/wsman.WorkspaceManager/StopWorkspace", "/wsman.WorkspaceManager/DescribeWorkspace",
		"/wsman.WorkspaceManager/GetWorkspaces", "/wsman.WorkspaceManager/Subscribe", "/supervisor.StatusService/TasksStatus", "/supervisor.TaskService/ListenToOutput",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
