package node

import (
	"context"
	"net/http"
	"time"

	"github.com/image-builder-ha/image-builder/api"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/web"
)

// publicHandler answers the HTTP port: the web page, if it is on, and the logs
// for clients of Gitpod.
func (s *Node) publicHandler() http.Handler {
	logs := s.logInfoHandler()
	if s.cfg.HTTP.UI != "on" {
		return logs
	}
	page := web.New(web.Options{
		API: api.Native{Service: s.service}, Node: s.cfg.Name, Nodes: s.cfg.HTTP.Nodes, Streams: s.streams, Log: s.log,
	})
	mux := http.NewServeMux()
	mux.Handle("/ui/", page)
	mux.Handle("GET /{$}", http.RedirectHandler(web.Path, http.StatusFound))
	mux.Handle("/", logs)
	return mux
}

// nodesPatience is how long ListNodes waits for the leader before it tells what
// this node knows.
const nodesPatience = time.Second

// listNodes tells of the members what everybody may know.
func (s *Node) listNodes(ctx context.Context) (*imagebuilderv1.ListNodesResponse, error) {
	api := clusterAPI{s: s}
	wait, cancel := context.WithTimeout(ctx, nodesPatience)
	defer cancel()
	m, err := api.Members(wait, &imagebuilderv1.MembersRequest{})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if m, err = api.Members(ctx, &imagebuilderv1.MembersRequest{Stale: true}); err != nil {
			return nil, err
		}
	}
	res := &imagebuilderv1.ListNodesResponse{
		AnsweredBy: s.cfg.Name, FromLeader: m.FromLeader, Leader: m.Leader, FailureTolerance: m.FailureTolerance,
	}
	for _, n := range m.Members {
		res.Nodes = append(res.Nodes, &imagebuilderv1.NodeInfo{
			Name: n.Name, Voter: n.Voter, Leader: n.Leader, State: n.State, AppliedIndex: n.AppliedIndex, TrailsBy: n.TrailsBy,
			RunningBuilds: n.OwnedBuilds, Drained: n.Drained, Silent: n.Silent,
		})
	}
	return res, nil
}
