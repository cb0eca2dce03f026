package builds_test

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Fuzz_Command applies commands of any type with any payload to two states. They never panic,
// return the same results and stay equal, and a restored snapshot is equal too.
func Fuzz_Command(f *testing.F) {
	for _, payload := range []proto.Message{
		&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel},
		&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "b2", Capacity: 3, Runtimes: []string{"copy"}},
		&buildsv1.CreateBuild{Id: "b", Ref: "r:1", Requester: "a", Source: imageSource("x"), TimeoutNanos: int64(time.Hour)},
		&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{BuildId: "b", Owner: "n1", OwnerStoreId: "s1", Runtime: "copy"}}},
		&buildsv1.ReportPhase{BuildId: "b", Attempt: 1, Epoch: 1, Phase: builds.Pushing, Digest: "sha256:d"},
		&buildsv1.FinishAttempt{BuildId: "b", Attempt: 1, Epoch: 1, Phase: builds.Succeeded, Digest: "sha256:d"},
		&buildsv1.SealAttempt{BuildId: "b", Attempt: 1, Epoch: 1, Length: 5},
		&buildsv1.SetLogCopies{BuildId: "b", Attempt: 1, Epoch: 1, Copies: []*imagebuilderv1.LogCopy{{Node: "n1", StoreId: "s1"}}},
		&buildsv1.NodeLost{Name: "n1", StoreId: "s1", BootId: "b2"},
		&buildsv1.Reassign{}, &buildsv1.RevokeAttempt{}, &buildsv1.DrainNode{}, &buildsv1.ForgetNode{}, &buildsv1.ExpireLogs{}, &buildsv1.Reap{}, &buildsv1.PutSettings{},
		&buildsv1.PutCachedRef{}, &buildsv1.DeleteCachedRef{}, &buildsv1.Reseal{}, &buildsv1.NodeStopping{},
	} {
		cmd, err := builds.NewCommand(payload)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(cmd.Type, cmd.Payload, cmd.Type, cmd.Payload)
	}
	f.Fuzz(func(t *testing.T, type1 uint32, payload1 []byte, type2 uint32, payload2 []byte) {
		one, two := buildstest.NewMachine(t), buildstest.NewMachine(t)
		for _, m := range []*buildstest.Machine{one, two} {
			m.Must(&buildsv1.SetFeatureLevel{Level: 2})
			m.Create("r:1")
		}
		for i, c := range []*clusterv1.Command{{Type: type1, Payload: payload1}, {Type: type2, Payload: payload2}} {
			c.TimeUnixNano = one.Now.UnixNano()
			index := one.Index + uint64(i) + 1
			_, refused := one.Store.Apply(index, c).(error)
			if _, again := two.Store.Apply(index, c).(error); again != refused {
				t.Fatal("the results of the two states differ")
			}
			if refused {
				break // the node stops
			}
		}
		whole := buildstest.Dump(t, one.Store)
		if !bytes.Equal(whole, buildstest.Dump(t, two.Store)) {
			t.Fatal("two states differ after the same commands")
		}
		restored := builds.NewStore()
		if err := restored.Restore(bytes.NewReader(whole)); err != nil {
			t.Fatalf("a snapshot of the state is refused: %v", err)
		}
		if !bytes.Equal(whole, buildstest.Dump(t, restored)) {
			t.Fatal("the restored state differs")
		}
	})
}

func imageSource(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}
