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
func (s *Node) openWSManager() (*wsmanager.Runtime, error) {
	if !s.cfg.Uses(wsmanager.Name) {
		return nil, nil
	}
	c := s.cfg.Orchestrator
	o := wsmanager.Options{
		Address: c.WSManager.Address, BuilderImage: c.BuilderImage, PullSecret: c.PullSecret, Log: s.log,
		Supervisor: func(w *workload.Workload) string { return w.SupervisorRef },
		Owner:      func(w *workload.Workload) string { return w.Requester },
		Images:     s.pushedImage, AdditionalAuth: s.additionalAuth,
		Debug: s.cfg.Log.Level == "debug",
		Dial:  tracing.DialOption(s.tracing.Work(), wsman.WorkspaceManager_StartWorkspace_FullMethodName, wsman.WorkspaceManager_StopWorkspace_FullMethodName),
	}
	if t := c.WSManager.TLS; t.CA != "" {
		o.TLS = &wsmanager.TLS{CA: t.CA, Cert: t.Cert, Key: t.Key}
	}
	return wsmanager.New(o)
}

// pushedImage answers what stands at one of the install's own refs now. It
// always asks the registry: the workspace has pushed, not this client, so that
// what is cached may be older.
func (s *Node) pushedImage(ctx context.Context, ref string) (builds.Image, error) {
	s.registry.Forget(ref)
	img, err := s.registry.Head(ctx, ref, install)
	return imageOf(img, ref, err)
}

// published makes every node ask anew for the refs of a build that succeeded
// on any of them. It is called while a command is applied and does not block.
func (s *Node) published(b *imagebuilderv1.Build) {
	for _, ref := range []string{b.GetRef(), b.GetBaseRef()} {
		if ref != "" {
			s.images.Forget(ref)
		}
	}
}

// additionalAuth answers what the proxy of a build workspace may present besides
// the pull secret: the request's own credentials and, with
// enableAdditionalECRAuth, tokens for Amazon's registries, which no pull secret
// holds since they end within hours (contract section 9).
func (s *Node) additionalAuth(ctx context.Context, w *workload.Workload) (map[string]*imagebuilderv1.BasicAuth, error) {
	out, err := wsmanager.RequestAuth(ctx, w)
	if err != nil || !s.cfg.Orchestrator.EnableAdditionalECRAuth {
		return out, err
	}
	for _, ref := range []string{w.Ref, w.BaseRef, w.Source.GetRef().GetRef()} {
		host := hostOf(ref)
		if !ecr.Private(host) {
			continue
		}
		found, _ := s.registry.Credentials(ctx, registry.Rights{Hosts: []string{host}}, host) // of a failure its log tells more
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
func (s *Node) logInfo() func(build string, withToken bool) *builder.LogInfo {
	if s.cfg.HTTP.Listens() == "" {
		return nil
	}
	return func(build string, withToken bool) *builder.LogInfo {
		token := ""
		if withToken {
			var err error
			if token, err = (loginfo.Tokens{Keys: s.keyring}).New(build); err != nil {
				s.log.Error("cannot make a token for the log of a build", "build", build, "err", err)
			}
		}
		return loginfo.Info(s.cfg.HTTP.PublicURL, build, token)
	}
}

func (s *Node) logInfoHandler() http.Handler {
	l := &loginfo.Server{Builds: s.service, Tokens: loginfo.Tokens{Keys: s.keyring}, Streams: s.streams}
	mux := http.NewServeMux()
	mux.Handle("/", l.Handler())
	if s.cfg.RefCache.NotifyTokenFile != "" {
		mux.HandleFunc("POST "+notifyPath, s.notified)
	}
	return mux
}

// httpTLS encrypts the port for log clients, if it has certificates.
func (s *Node) httpTLS(l net.Listener) (net.Listener, error) {
	conf, err := serverTLS("http.tls", s.cfg.HTTP.TLS, s.log, "http/1.1")
	if l == nil || conf == nil || err != nil {
		return l, err
	}
	return tls.NewListener(l, conf), nil
}
