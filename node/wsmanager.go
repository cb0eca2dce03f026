package node

import (
	"context"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/ecr"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/tracing"
)

// openWSManager returns the runtime that builds in Gitpod workspaces, or nil if the configuration
// does not use it.
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

// pushedImage returns the image that one of the install's own refs names now. It always queries
// the registry: the workspace has pushed the image, not this client, so the cache may be out of
// date.
func (n *Node) pushedImage(ctx context.Context, ref string) (builds.Image, error) {
	n.registry.Forget(ref)
	img, err := n.registry.Head(ctx, ref, installRights)
	return imageOf(img, ref, err)
}

// additionalAuth returns the credentials, by host, that the proxy of a build workspace may present
// besides the pull secret: those of the request and, with orchestrator.enableAdditionalECRAuth,
// tokens for registries of Amazon. A pull secret cannot hold such tokens, because they expire
// within hours (docs/gitpod-contract.md, section 9).
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
		found, _ := n.registry.Credentials(ctx, registry.Rights{Hosts: []string{host}}, host) // the registry client logs a failure
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

// watchForeign looks for workspaces of another image builder until ctx ends, and logs each once. It
// returns at once if the node does not use ws-manager.
func (n *Node) watchForeign(ctx context.Context) error {
	ws, ok := n.runtimes[wsmanager.Name].(*wsmanager.Runtime)
	if !ok {
		return nil
	}
	for first := true; first || ctxutil.Sleep(ctx, foreignInterval); first = false {
		all, err := n.listForeign(ctx, ws)
		for err != nil && ctxutil.Sleep(ctx, time.Second) { // ws-manager or a leader is not available
			all, err = n.listForeign(ctx, ws)
		}
		if err != nil {
			return nil // ctx has ended
		}
		for _, w := range n.foreign.update(all) {
			n.log.Warn("a build workspace of another image builder runs: it is left alone",
				"workspace", w.ID, "phase", w.Phase, "image", w.Ref, "started", w.Started)
		}
	}
	return nil
}

// listForeign returns the build workspaces whose build the replicated state does not contain. It
// lists the workspaces before it reads the state: a build is committed before its workspace is
// started, so that the state contains the builds of all listed workspaces of this service.
func (n *Node) listForeign(ctx context.Context, ws *wsmanager.Runtime) (out []wsmanager.Workspace, err error) {
	all, err := ws.Workspaces(ctx)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	index, err := n.raft.ReadIndex(ctx)
	if err == nil {
		err = n.raft.WaitApplied(ctx, index)
	}
	if err != nil {
		return nil, err
	}
	n.store.Read(func(st *builds.State) {
		for _, w := range all {
			if id, _, ok := workload.ParseName(w.Workload); !ok || st.Build(id) == nil {
				out = append(out, w)
			}
		}
	})
	return out, nil
}
