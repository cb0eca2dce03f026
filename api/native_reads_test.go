package api_test

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
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

// Test_List_ReadsABoundedNumber lists the only build with a label, which is the oldest of many.
func Test_List_ReadsABoundedNumber(t *testing.T) {
	a := newAPI(t)
	const others = 4500
	first := a.Create("r:first", func(c *buildsv1.CreateBuild) { c.Labels = map[string]string{"team": "a"} }).Build.Id
	for i := range others {
		a.Create(fmt.Sprint("r:", i))
	}
	req := &imagebuilderv1.ListBuildsRequest{Filter: &imagebuilderv1.BuildFilter{Labels: map[string]string{"team": "a"}}}
	var got []string
	pages := 0
	for ; pages == 0 || req.PageToken != ""; pages++ {
		res, err := a.native.ListBuilds(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range res.Builds {
			got = append(got, b.Id)
		}
		req.PageToken = res.NextPageToken
	}
	if len(got) != 1 || got[0] != first || pages != 5 {
		t.Errorf("%d pages listed %v, want %s and 5 pages of at most 1000 builds", pages, got, first)
	}
}
