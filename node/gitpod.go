package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"

	"github.com/image-builder-ha/image-builder/api/loginfo"
	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/ecr"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/tracing"
)

// openWSManager opens the runtime that builds in Gitpod workspaces, or answers
// nil if it runs nothing.
func (n *Node) openWSManager() (*wsmanager.Runtime, error) {
	if !n.cfg.Uses(wsmanager.Name) {
		return nil, nil
	}
	c := n.cfg.Orchestrator
	o := wsmanager.Options{
		Address: c.WSManager.Address, BuilderImage: c.BuilderImage, PullSecret: c.PullSecret, Log: n.log,
		Supervisor: func(w *workload.Workload) string { return w.SupervisorRef },
		Owner:      func(w *workload.Workload) string { return w.Requester },
		Images:     n.pushedImage, AdditionalAuth: n.additionalAuth,
		Debug: n.cfg.Log.Level == "debug",
		Dial:  tracing.DialOption(n.tracing.Work(), wsman.WorkspaceManager_StartWorkspace_FullMethodName, wsman.WorkspaceManager_StopWorkspace_FullMethodName),
	}
	if t := c.WSManager.TLS; t.CA != "" {
		o.TLS = &wsmanager.TLS{CA: t.CA, Cert: t.Cert, Key: t.Key}
	}
	return wsmanager.New(o)
}

// pushedImage answers what stands at one of the install's own refs now. It
// always asks the registry: the workspace has pushed, not this client, so that
// what is cached may be older.
func (n *Node) pushedImage(ctx context.Context, ref string) (builds.Image, error) {
	n.registry.Forget(ref)
	img, err := n.registry.Head(ctx, ref, installRights)
	return imageOf(img, ref, err)
}

// published makes every node ask anew for the refs of a build that succeeded
// on any of them. It is called while a command is applied and does not block.
func (n *Node) published(b *imagebuilderv1.Build) {
	for _, ref := range []string{b.GetRef(), b.GetBaseRef()} {
		if ref != "" {
			n.images.Forget(ref)
		}
	}
}

// additionalAuth answers what the proxy of a build workspace may present besides
// the pull secret: the request's own credentials and, with
// enableAdditionalECRAuth, tokens for Amazon's registries, which no pull secret
// holds since they end within hours (contract section 9).
func (n *Node) additionalAuth(ctx context.Context, w *workload.Workload) (map[string]*imagebuilderv1.BasicAuth, error) {
	out, err := wsmanager.RequestAuth(ctx, w)
	if err != nil || !n.cfg.Orchestrator.EnableAdditionalECRAuth {
		return out, err
	}
	for _, ref := range []string{w.Ref, w.BaseRef, w.Source.GetRef().GetRef()} {
		host := hostOf(ref)
		if !ecr.Private(host) {
			continue
		}
		found, _ := n.registry.Credentials(ctx, registry.Rights{Hosts: []string{host}}, host) // of a failure its log tells more
		if c, ok := found[host]; ok {
			out[host] = &imagebuilderv1.BasicAuth{Username: c.Username, Password: c.Password}
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("no token for %s is to be had by this process' AWS identity (orchestrator.enableAdditionalECRAuth)", host)
	}
	return out, nil
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

func (n *Node) logInfoHandler() http.Handler {
	l := &loginfo.Server{Builds: n.service, Tokens: n.keyring, Streams: n.streams}
	mux := http.NewServeMux()
	mux.Handle("/", l.Handler())
	if n.cfg.RefCache.NotifyTokenFile != "" {
		mux.HandleFunc("POST "+notifyPath, n.handleNotification)
	}
	return mux
}

// httpTLS encrypts the port for log clients, if it has certificates.
func (n *Node) httpTLS(l net.Listener) (net.Listener, error) {
	conf, err := serverTLS("http.tls", n.cfg.HTTP.TLS, n.log, "http/1.1")
	if l == nil || conf == nil || err != nil {
		return l, err
	}
	return tls.NewListener(l, conf), nil
}
