package builds_test

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// fill sets every field of a message, lists with two elements, and a field that this version does
// not know.
func fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsMap():
			key := protoreflect.ValueOfString("key").MapKey()
			v := m.Mutable(f).Map().NewValue()
			if f.MapValue().Message() == nil {
				v = scalar(f.MapValue())
			}
			m.Mutable(f).Map().Set(key, v)
		case f.IsList():
			for range 2 {
				if f.Message() == nil {
					m.Mutable(f).List().Append(scalar(f))
				} else if depth > 0 {
					fill(m.Mutable(f).List().AppendMutable().Message(), depth-1)
				}
			}
		case f.Message() != nil:
			if depth > 0 {
				fill(m.Mutable(f).Message(), depth-1)
			}
		default:
			m.Set(f, scalar(f))
		}
	}
	if m.Descriptor().ParentFile().Package() != "google.protobuf" {
		m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9999, protowire.VarintType), 1))
	}
}

func scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(3)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(4)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(5)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(6)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("bytes"))
	}
	return protoreflect.ValueOfString("text")
}

// Test_Edit_CopiesEveryField checks that a copy has all fields, those of later versions included, and
// that the messages and lists that commands change belong to the copy.
func Test_Edit_CopiesEveryField(t *testing.T) {
	r := new(buildsv1.Record)
	fill(r.ProtoReflect(), 8)
	before := proto.CloneOf(r)
	c := builds.Edit(r)
	if !proto.Equal(r, c) {
		t.Fatalf("the copy is\n%v\nand not\n%v", c, r)
	}
	c.Detached[0], c.Build.Requesters[0] = "other", "other"
	c.Build.Id, c.Build.Attempts[0].Owner, c.Build.Attempts[1].Log.Checksum = "other", "other", "other"
	a := c.Build.Attempts[0]
	a.History = append(a.History, nil)
	c.Build.Attempts = append(c.Build.Attempts, nil)
	if !proto.Equal(r, before) {
		t.Errorf("a change of the copy changed the original:\n%v\nwas\n%v", r, before)
	}
	if empty := builds.Edit(&buildsv1.Record{Build: before.Build}); !proto.Equal(empty, &buildsv1.Record{Build: before.Build}) {
		t.Errorf("the copy of a record with few fields is %v", empty)
	}
}
