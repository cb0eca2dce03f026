package node

import (
	"time"

	"github.com/image-builder-ha/image-builder/api/loginfo"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
)

// waiting tells why queued builds of a state wait.
func (n *Node) waiting(st *builds.State) func(*buildsv1.Record) string {
	return scheduler.NewWaiting(st, time.Now(), n.runtimeOf, n.cfg.Logs.Copies).Reason
}

// logInfo tells clients of Gitpod's API where a build's log is, nil if nowhere.
func (n *Node) logInfo() func(build string, withToken bool) *builder.LogInfo {
	if n.cfg.HTTP.Listens() == "" {
		return nil
	}
	return func(build string, withToken bool) *builder.LogInfo {
		token := ""
		if withToken {
			var err error
			if token, err = n.keyring.LogToken(build); err != nil {
				n.log.Error("cannot make a token for the log of a build", "build", build, "err", err)
			}
		}
		return loginfo.Info(n.cfg.HTTP.PublicURL, build, token)
	}
}
