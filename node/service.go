package node

import (
	"time"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/api/loginfo"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
)

// newService returns the service behind the native API and Gitpod's API.
func (n *Node) newService() *api.Service {
	o := api.ServiceOptions{
		Store: n.store, Raft: clientRaft{n.raft}, Registry: n.images, Logs: n.logs,
		Repositories: repositories(n.cfg), Timeout: time.Duration(n.cfg.Builds.Timeout),
		MaxTimeout: time.Duration(n.cfg.Builds.MaxTimeout), LogInfo: n.logInfo(), LeftOff: n.counters.leftOff,
		Dockerfiles: n.cfg.Runtimes.Dockerfile != "", TempDir: n.tempDir(), MaxContext: n.cfg.BuildKit.MaxContextBytes, OneTime: n.redeemOneTimeURL,
		Waiting: n.waiting, Nodes: n.listNodes,
	}
	if n.registry != nil {
		o.Contexts, o.Commit = n.contextStore(), n.resolveCommit
	}
	return api.NewService(o)
}

// waiting returns a function that says why a queued build of the state waits.
func (n *Node) waiting(st *builds.State) func(*buildsv1.Record) string {
	return scheduler.NewWaiting(st, time.Now(), n.runtimeOf, n.cfg.Logs.Copies).Reason
}

// logInfo returns the function that gives clients of Gitpod's API the URL of a build's log. It is
// nil if the node has no HTTP port.
func (n *Node) logInfo() func(build string, withToken bool) *builder.LogInfo {
	if n.cfg.HTTP.Listens() == "" {
		return nil
	}
	return func(build string, withToken bool) *builder.LogInfo {
		token := ""
		if withToken {
			var err error
			if token, err = (loginfo.Tokens{Keys: n.keyring}).New(build); err != nil {
				n.log.Error("cannot create a token for the log of a build", "build", build, "err", err)
			}
		}
		return loginfo.Info(n.cfg.HTTP.PublicURL, build, token)
	}
}
