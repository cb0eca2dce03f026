package peer

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_Wire_Append: no field of an append is lost on its way to another node.
func Test_Wire_Append(t *testing.T) {
	a := logs.Append{
		Key: logs.Key{Build: "b", Attempt: 2}, Epoch: 3, Offset: 4, Records: []byte("records"), Cut: true, Reset: true, Visible: 5, Incarnation: 6, Former: 7,
		Source: 8, Truncated: true, Sequence: 9,
	}
	for v, i := reflect.ValueOf(a), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("the test does not set %s", v.Type().Field(i).Name)
		}
	}
	raw, err := proto.Marshal(appendToProto(a))
	if err != nil {
		t.Fatal(err)
	}
	m := &buildsv1.LogAppend{}
	if err := proto.Unmarshal(raw, m); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(a, appendFromProto(m)); d != "" {
		t.Error(d)
	}
}

func Test_Wire_Ack(t *testing.T) {
	for name, c := range map[string]struct{ refusal, want error }{
		"taken":   {nil, nil},
		"fenced":  {fmt.Errorf("log b/1: %w", logs.ErrFenced), logs.ErrFenced},
		"another": {fmt.Errorf("log b/1: %w", logs.ErrReplaced), logs.ErrReplaced},
		"refused": {logs.ErrSealed, errors.New(logs.ErrSealed.Error())},
	} {
		got := ackFromProto(ackToProto(logs.Ack{Length: 7, Refusal: c.refusal, Incarnation: 8}))
		if got.Length != 7 || got.Incarnation != 8 || errors.Is(got.Refusal, logs.ErrReplaced) != errors.Is(c.want, logs.ErrReplaced) || fmt.Sprint(got.Refusal) != fmt.Sprint(c.want) || errors.Is(got.Refusal, logs.ErrFenced) != errors.Is(c.want, logs.ErrFenced) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
