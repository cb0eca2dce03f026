package verify

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// listing is a node that lists the builds with the given numbers.
type listing struct {
	imagebuilderv1.ImageBuilderClient
	numbers []int
	more    bool // there are older builds on a next page
}

func build(number int) *imagebuilderv1.Build {
	return &imagebuilderv1.Build{
		Id: fmt.Sprintf("b%d", number), Phase: imagebuilderv1.Phase_PHASE_SUCCEEDED, Version: uint64(number + 1), Ref: "r",
		CreatedAt: timestamppb.New(time.Unix(int64(number), 0)), EndedAt: timestamppb.New(time.Unix(int64(number)+1, 0)),
	}
}

func (l listing) ListBuilds(context.Context, *imagebuilderv1.ListBuildsRequest, ...grpc.CallOption) (*imagebuilderv1.ListBuildsResponse, error) {
	res := &imagebuilderv1.ListBuildsResponse{}
	for _, n := range l.numbers {
		res.Builds = append(res.Builds, build(n))
	}
	if l.more {
		res.NextPageToken = "next"
	}
	return res, nil
}

// Test_Lists_OneThatLacksAnAcknowledgedBuildIsFound lists after build 5 was acknowledged.
func Test_Lists_OneThatLacksAnAcknowledgedBuildIsFound(t *testing.T) {
	for _, c := range []struct {
		name string
		node listing
		want bool // the list is found stale
	}{
		{"the list has the build", listing{numbers: []int{6, 5, 4}}, false},
		{"the list lacks the build", listing{numbers: []int{4, 3}}, true},
		{"the list is empty", listing{}, true},
		{"the first of several pages lacks the build", listing{numbers: []int{6, 4}, more: true}, true},
		{"newer builds fill the first page", listing{numbers: []int{8, 7, 6}, more: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &run{
				opts: Options{Servers: []string{"n0"}}, id: "verify-1", rec: history.NewRecorder(nil), canary: newCanary(), observations: map[observationKey][]Observation{},
				pinned: []*client.Client{{ImageBuilderClient: c.node}},
			}
			b := build(5)
			create := r.rec.Begin("c", history.Operation{Kind: history.Create, Ref: "r", Requester: "c", RequestID: "1", Force: true})
			create.End(history.Created(&imagebuilderv1.BuildImageResponse{Build: b}))
			r.list(t.Context(), "c", b)
			got, err := Judge(&Evidence{Calls: r.rec.History(), Run: RunInfo{Servers: r.opts.Servers}})
			if err != nil {
				t.Fatal(err)
			}
			if found := slices.ContainsFunc(got, func(f Finding) bool { return f.Promise == Promise(history.NeverLost) }); found != c.want {
				t.Errorf("the list is found stale: %v, want %v; findings: %v", found, c.want, got)
			}
		})
	}
}
