package builds

import (
	"bytes"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Snapshot_ABuildTwice: a snapshot that has a build twice is refused.
func Test_Snapshot_ABuildTwice(t *testing.T) {
	for _, ids := range [][]string{
		{"018bd003-78f2-7349-b993-f0ea98677142", "018bd003-78f2-7349-b993-f0ea98677143"},
		{"018bd003-78f2-7349-b993-f0ea98677142", "018bd003-78f2-7349-b993-f0ea98677142"},
		{"b", "018bd003-78f2-7349-b993-f0ea98677142", "b"},
	} {
		var raw bytes.Buffer
		write := func(m proto.Message) {
			if _, err := protodelim.MarshalTo(&raw, m); err != nil {
				t.Fatal(err)
			}
		}
		write(&buildsv1.SnapshotHeader{Format: snapshotFormat, FeatureLevel: FeatureLevel, Records: uint64(len(ids))})
		for _, id := range ids {
			write(&buildsv1.SnapshotRecord{Entry: &buildsv1.SnapshotRecord_Build{Build: &buildsv1.Record{
				Build: &imagebuilderv1.Build{Id: id, Phase: Failed},
			}}})
		}
		twice := ids[0] == ids[len(ids)-1]
		_, err := readSnapshot(&raw)
		if (err != nil) != twice || twice && !strings.Contains(err.Error(), ids[0]+" is there twice") {
			t.Errorf("a snapshot of %q: %v", ids, err)
		}
	}
}
