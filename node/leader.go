package node

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/tracing"
)

// lead makes the decisions of the leader about builds, attempts, nodes and logs until the term
// ends.
func (n *Node) lead(ctx context.Context, term *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, n.work)
	defer cancel()
	return scheduler.NewLeader(scheduler.LeaderOptions{
		Store: n.store, Raft: termAdapter{n.raft, term}, Log: n.log, Now: term.Now, Settings: settingsOf(n.cfg),
		Nodes: liveness{n.cluster, &n.restoring}, LostAfter: time.Duration(n.cfg.Owner.Lease + n.cfg.Owner.Grace), Runtime: n.runtimeOf,
		Adoptable: n.adoptable, Replicas: n.cfg.Logs.Copies, FenceTimeout: time.Duration(n.cfg.Logs.FenceTimeout),
		Retention: scheduler.Retention{Age: time.Duration(n.cfg.Logs.Retention), TotalBytes: n.cfg.Logs.TotalBytes}, Expired: n.counters.logsExpired,
		Tracer: n.tracing.Tracer(tracing.Scope),
	}).Run(ctx)
}

// settingsOf returns the settings that the leader commits, so that all nodes apply commands with
// the same limits.
func settingsOf(cfg config.Config) *buildsv1.Settings {
	return &buildsv1.Settings{
		HistoryTotal:        cfg.History.Total,
		HistoryPerRequester: cfg.History.PerRequester,
		HistoryMaxAgeNanos:  int64(cfg.History.MaxAge),
		HistoryMinAgeNanos:  int64(cfg.History.MinAge),
		RequestIdAgeNanos:   int64(cfg.RequestIDs.Age),
		Attempts:            uint32(cfg.Builds.Attempts),
		UncountedAttempts:   uint32(cfg.Builds.UncountedAttempts),
		RetryBaseNanos:      int64(cfg.Builds.RetryBackoff),
		RetryMaxNanos:       int64(cfg.Builds.RetryBackoffMax),
		RunningTotal:        uint32(cfg.Builds.RunningTotal),
		RunningPerRequester: uint32(cfg.Builds.RunningPerRequester),
		QueueTotal:          uint32(cfg.Builds.QueueTotal),
		QueuePerRequester:   uint32(cfg.Builds.QueuedPerRequester),
	}
}

// reapWorkloads stops workloads that have outlived their attempts, until the term ends. The
// workspace manager is shared: another image builder may have workspaces there, for instance during
// a migration, and these must not be stopped.
func (n *Node) reapWorkloads(ctx context.Context, _ *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, n.work)
	defer cancel()
	r := scheduler.Reaper{Store: n.store, Raft: n.raft, Runtimes: n.runtimes, Shared: []string{wsmanager.Name}, Log: n.log}
	return r.Run(ctx)
}

// raiseLevel commits the greatest feature level that all members know and that the configuration
// allows. It continues until the term ends: a member may start a newer version at any time.
func (n *Node) raiseLevel(ctx context.Context, term *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, n.work)
	defer cancel()
	highest := uint32(builds.FeatureLevel)
	if limit := n.cfg.Cluster.Level; limit != 0 {
		highest = min(highest, uint32(limit))
	}
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		if n.level() < highest {
			n.raiseLevelTo(ctx, term, highest)
		}
		if !ctxutil.Sleep(ctx, wait) {
			return nil
		}
	}
}

// raiseLevelTo commits the greatest level up to highest that all members know, if it is greater
// than the current level.
func (n *Node) raiseLevelTo(ctx context.Context, term *cluster.Term, highest uint32) {
	known := highest
	for _, m := range n.cluster.Members() {
		known = min(known, m.Answer.GetNode().GetFeatureLevel())
	}
	if known <= n.level() {
		return
	}
	if _, _, err := builds.Propose(ctx, termAdapter{n.raft, term}, &buildsv1.SetFeatureLevel{Level: known}); err == nil {
		n.log.Info("raised the feature level of the cluster", "level", known)
	}
}

// labelLeader gives this node's pod the label of the leader, and removes it from other pods. It
// retries until it succeeds or the term ends.
func (n *Node) labelLeader(ctx context.Context, _ *cluster.Term) error {
	k := n.cfg.Cluster.Kubernetes
	if !k.Label {
		return nil
	}
	ctx, cancel := ctxutil.Join(ctx, n.work)
	defer cancel()
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		client, err := n.kubernetesAPI()
		if err == nil {
			call, cancel := context.WithTimeout(ctx, 10*time.Second)
			err = kubernetes.LabelLeader(call, client, k.Namespace, n.cfg.Name)
			cancel()
		}
		if err == nil || ctx.Err() != nil {
			return nil
		}
		n.log.Warn("cannot label the pod of the leader, will try again", "after", wait, "err", err)
		if !ctxutil.Sleep(ctx, wait) {
			return nil
		}
	}
}
