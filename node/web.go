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
func (n *Node) publicHandler() http.Handler {
	logs := n.logInfoHandler()
	if n.cfg.HTTP.UI != "on" {
		return logs
	}
	page := web.New(web.Options{
		API: api.Native{Service: n.service}, Node: n.cfg.Name, Nodes: n.cfg.HTTP.Nodes, Streams: n.streams, Log: n.log,
	})
	mux := http.NewServeMux()
	mux.Handle("/ui/", page)
	mux.Handle("GET /{$}", http.RedirectHandler(web.Path, http.StatusFound))
	mux.Handle("/", logs)
	return mux
}

// nodesPatience is how long ListNodes waits for the leader before it tells what
// this node knows.
const listNodesLeaderTimeout = time.Second

// listNodes tells of the members what everybody may know.
func (n *Node) listNodes(ctx context.Context) (*imagebuilderv1.ListNodesResponse, error) {
	api := clusterAPI{node: n}
	wait, cancel := context.WithTimeout(ctx, listNodesLeaderTimeout)
	defer cancel()
	members, err := api.Members(wait, &imagebuilderv1.MembersRequest{})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if members, err = api.Members(ctx, &imagebuilderv1.MembersRequest{Stale: true}); err != nil {
			return nil, err
		}
	}
	res := &imagebuilderv1.ListNodesResponse{
		AnsweredBy: n.cfg.Name, FromLeader: members.FromLeader, Leader: members.Leader, FailureTolerance: members.FailureTolerance,
	}
	for _, member := range members.Members {
		res.Nodes = append(res.Nodes, &imagebuilderv1.NodeInfo{
			Name: member.Name, Voter: member.Voter, Leader: member.Leader, State: member.State, AppliedIndex: member.AppliedIndex, TrailsBy: member.TrailsBy,
			RunningBuilds: member.OwnedBuilds, Drained: member.Drained, Silent: member.Silent,
		})
	}
	return res, nil
}
