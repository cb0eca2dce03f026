package api_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_List_PagesNewestFirst(t *testing.T) {
	a := newAPI(t)
	for range 25 {
		a.Create("r:" + string(rune('a'+a.IDs)))
	}
	var got []string
	token := ""
	for {
		res, err := a.native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{PageSize: 10, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range res.Builds {
			got = append(got, b.Id)
		}
		if token = res.NextPageToken; token == "" {
			break
		}
	}
	if len(got) != 25 || got[0] < got[24] {
		t.Errorf("got %d builds from %s to %s, want 25 newest first", len(got), got[0], got[len(got)-1])
	}
	_, err := a.native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{PageSize: -1})
	wantCode(t, err, codes.InvalidArgument, "page_size")
	gl, err := a.gitpod.ListBuilds(t.Context(), &builder.ListBuildsRequest{})
	if err != nil || len(gl.Builds) != 25 || gl.Builds[0].BuildId != got[0] || gl.Builds[0].Status != builder.BuildStatus_running {
		t.Errorf("Gitpod's list: %d builds, %v", len(gl.GetBuilds()), err)
	}
}
