package deploytest

import (
	"testing"
)

func Test_Dump(t *testing.T) {
	for _, f := range []string{"standalone", "gitpod"} {
		m, err := Render(Root+"/helm/image-builder", Release{Name: "ib", Namespace: "ns"}, []string{Root + "/helm/image-builder/values-" + f + ".yaml"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Log(Join(m))
	}
}
