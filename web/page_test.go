package web

import (
	"regexp"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Page_ReadsFieldsThatExist: each field that the page reads of a build, which it names b, is a
// field of the JSON form of builds.
func Test_Page_ReadsFieldsThatExist(t *testing.T) {
	script, err := files.ReadFile("static/page.js")
	if err != nil {
		t.Fatal(err)
	}
	paths := regexp.MustCompile(`\bb((?:\??\.\w+)+)`).FindAllSubmatch(script, -1)
	if len(paths) < 20 {
		t.Fatalf("the page reads only %d fields", len(paths))
	}
	for _, path := range paths {
		m := (&imagebuilderv1.Build{}).ProtoReflect().Descriptor()
		for _, name := range regexp.MustCompile(`\w+`).FindAllString(string(path[1]), -1) {
			f := m.Fields().ByJSONName(name)
			if f == nil {
				t.Errorf("the page reads b%s, but %s has no field %s", path[1], m.Name(), name)
				break
			}
			if f.Kind() != protoreflect.MessageKind || f.Cardinality() == protoreflect.Repeated {
				break // what follows is a function of JavaScript
			}
			m = f.Message()
		}
	}
}
