package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/copy"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

// Validate returns all errors of a completed configuration, one per line, sorted, each with its
// key.
func (c *Config) Validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if err := c.Registry.Validate(); err != nil {
		errs = append(errs, err)
	}
	c.validateNode(bad)
	c.validateAddresses(bad)
	c.validateLimits(bad)
	c.validateCluster(bad)
	c.validateRuntimes(bad)
	c.validateKubernetes(bad)
	c.validateWebPage(bad)
	c.RefCache.validate(bad, c.HTTP.Address, c.BuildKit.Addresses)
	c.Log.validate(bad)
	c.Tracing.validate(bad)
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// validateNode checks the keys that identify the node and its repositories.
func (c *Config) validateNode(bad report) {
	if c.Name == "" || strings.ContainsAny(c.Name, "/\x00\n\r") {
		bad("name", "must not be empty and must not contain '/' or line breaks")
	}
	if c.DataDir == "" {
		bad("dataDir", "must not be empty")
	}
	if len(c.OperatorSocket) > 104 {
		bad("operatorSocket", "the path is longer than the 104 bytes that unix sockets allow; set a shorter one")
	}
	for key, repo := range map[string]string{
		"orchestrator.baseImageRepository":      c.Orchestrator.BaseImageRepository,
		"orchestrator.workspaceImageRepository": c.Orchestrator.WorkspaceImageRepository,
	} {
		if repo == "" {
			bad(key, "must name a repository, such as registry.example.com/images")
		} else if named, err := registry.ParseRef(repo); err != nil || named.Name() != repo {
			bad(key, "must be a full repository name without tag, such as registry.example.com/images")
		}
	}
}

// validateAddresses checks the ports for clients and operators. The peer port is checked by
// validateCluster.
func (c *Config) validateAddresses(bad report) {
	for key, address := range map[string]string{
		"server.services.grpc.address": c.Server.Services.GRPC.Address, "metricsAddress": c.MetricsAddress,
		"healthAddress": c.HealthAddress, "pprofAddress": c.PprofAddress, "http.address": c.HTTP.Listens(),
	} {
		if key == "server.services.grpc.address" && address == "" {
			bad(key, "must not be empty")
		} else if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
			bad(key, "%q is not an address; write host:port or :port", address)
		}
	}
	if host, _, err := net.SplitHostPort(c.PprofAddress); err == nil && host != "localhost" && !net.ParseIP(host).IsLoopback() && !c.KnowsOperators() {
		bad("pprofAddress", "must be on loopback, or server.services.grpc.tls must have a CA (caPath) for the certificates of operators: profiles show the memory of the process")
	}
	if u, err := url.Parse(c.HTTP.PublicURL); c.HTTP.PublicURL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		bad("http.publicURL", "must be a URL such as https://image-builder.example.com")
	}
	if t := c.HTTP.TLS; (t.CertPath == "") != (t.KeyPath == "") {
		bad("http.tls", "needs both certPath and keyPath, or none")
	}
	if t := c.Server.Services.GRPC.TLS; (t.CertPath == "") != (t.KeyPath == "") {
		bad("server.services.grpc.tls", "needs both certPath and keyPath, or none")
	} else if t.ClientAuth != "" && t.ClientAuth != "require" {
		bad("server.services.grpc.tls.clientAuth", "must be 'require' or empty")
	}
}

// validateLimits checks the signs of numbers and durations.
func (c *Config) validateLimits(bad report) {
	for key, v := range map[string]int64{
		"builds.attempts": int64(c.Builds.Attempts), "builds.uncountedAttempts": int64(c.Builds.UncountedAttempts),
		"builds.runningPerNode": int64(c.Builds.RunningPerNode), "builds.queueTotal": int64(c.Builds.QueueTotal),
		"builds.timeout": int64(c.Builds.Timeout), "builds.maxTimeout": int64(c.Builds.MaxTimeout),
		"builds.retryBackoff": int64(c.Builds.RetryBackoff), "builds.retryBackoffMax": int64(c.Builds.RetryBackoffMax),
		"history.total": c.History.Total, "history.perRequester": c.History.PerRequester,
		"history.maxAge": int64(c.History.MaxAge), "requestIds.age": int64(c.RequestIDs.Age),
		"logs.copies": int64(c.Logs.Copies), "logs.replaceAfter": int64(c.Logs.ReplaceAfter),
		"logs.repairAfter": int64(c.Logs.RepairAfter), "logs.fenceTimeout": int64(c.Logs.FenceTimeout),
		"logs.sealTimeout": int64(c.Logs.SealTimeout),
		"logs.maxBytes":    c.Logs.MaxBytes, "logs.segmentBytes": c.Logs.SegmentBytes,
		"buildkit.maxContextBytes": c.BuildKit.MaxContextBytes,
		"raft.segmentBytes":        c.Raft.SegmentBytes,
		"raft.trailingLogs":        c.Raft.TrailingLogs,
		"raft.snapshotThreshold":   c.Raft.SnapshotThreshold, "raft.snapshotInterval": int64(c.Raft.SnapshotInterval),
		"registry.timeout": int64(c.Registry.Timeout), "shutdown.grace": int64(c.Shutdown.Grace),
	} {
		if v <= 0 {
			bad(key, "must be greater than zero")
		}
	}
	if c.BuildKit.ContextAge < 0 {
		bad("buildkit.contextAge", "must not be negative")
	}
	if c.Logs.Retention < 0 || c.Logs.TotalBytes < 0 {
		bad("logs.retention", "retention and totalBytes must not be negative")
	}
	if c.Builds.QueuedPerRequester < 0 {
		bad("builds.queuedPerRequester", "must not be negative")
	}
	if c.Shutdown.Drain < 0 {
		bad("shutdown.drain", "must not be negative")
	}
	if c.Ready.After < 0 || c.Ready.Patience < 0 {
		bad("ready", "after and patience must not be negative")
	}
	if c.Builds.RunningTotal < 0 || c.Builds.RunningPerRequester < 0 {
		bad("builds.runningTotal", "runningTotal and runningPerRequester must not be negative")
	}
	if c.Builds.Timeout > c.Builds.MaxTimeout {
		bad("builds.timeout", "must not be greater than builds.maxTimeout")
	}
}

// validateRuntimes checks that the selected runtimes are configured.
func (c *Config) validateRuntimes(bad report) {
	if r := c.Runtimes.Ref; r != copy.Name && r != wsmanager.Name && r != kubernetes.Name {
		bad("runtimes.ref", "must be copy, wsmanager or kubernetes")
	}
	if r := c.Runtimes.Dockerfile; r != "" && r != buildkit.Name && r != wsmanager.Name && r != kubernetes.Name {
		bad("runtimes.dockerfile", "must be buildkit, wsmanager or kubernetes")
	}
	if c.Runtimes.Dockerfile == buildkit.Name && len(c.BuildKit.Addresses) == 0 {
		bad("buildkit.addresses", "must name a daemon: runtimes.dockerfile is buildkit")
	}
	if !c.Uses(wsmanager.Name) {
		return
	}
	w := c.Orchestrator.WSManager
	if _, _, err := net.SplitHostPort(w.Address); err != nil {
		bad("orchestrator.wsman.address", "must be host:port: the runtime wsmanager is in use")
	}
	if c.Orchestrator.BuilderImage == "" {
		bad("orchestrator.builderImage", "must name the image of build workspaces: the runtime wsmanager is in use")
	}
	if t := w.TLS; (t.CA == "") != (t.Cert == "") || (t.CA == "") != (t.Key == "") {
		bad("orchestrator.wsman.tls", "needs ca, crt and key, or none of them")
	}
}

// validateCluster checks the peer port and the keys that the nodes of a cluster have in common.
func (c *Config) validateCluster(bad report) {
	k := c.Cluster
	if k.Voters != 1 && k.Voters != 3 && k.Voters != 5 {
		bad("cluster.voters", "must be 1, 3 or 5")
	}
	if k.Level < 0 {
		bad("cluster.featureLevel", "must not be negative")
	}
	if k.Expect < 0 {
		bad("cluster.expect", "must not be negative")
	}
	if c.Owner.Lease <= 0 || c.Owner.Grace <= 0 {
		bad("owner", "lease and grace must be greater than zero")
	}
	if c.Raft.Heartbeat < 0 || c.Raft.Election < 0 || c.Raft.Lease < 0 || c.Raft.Lease > c.Raft.Heartbeat {
		bad("raft", "heartbeat, election and lease must not be negative, and lease must not be longer than heartbeat")
	}
	if k.Address == "" {
		if len(k.Peers) > 0 || k.DNS != "" || k.Kubernetes.Service != "" {
			bad("cluster.address", "must be set if there are peers: without it the node has no peer port")
		}
		return
	}
	if k.Name == "" || strings.ContainsAny(k.Name, "/ ") {
		bad("cluster.name", "must not be empty and must not contain '/' or spaces")
	}
	if k.TLS.CA == "" || k.TLS.Cert == "" || k.TLS.Key == "" {
		bad("cluster.tls", "needs ca, crt and key: the peer port is always encrypted; 'image-builder cluster certs' creates them")
	}
	if c.Sealing.KeyFile == "" {
		bad("sealing.keyFile", "must be set: all nodes of a cluster need the same keys; 'image-builder cluster keys' creates a file")
	}
	for key, address := range map[string]string{"cluster.address": k.Address, "peerAddress": c.PeerAddress, "cluster.dns": k.DNS, "cluster.gossip.address": k.Gossip.Address} {
		if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
			bad(key, "%q is not an address; write host:port", address)
		}
	}
	if host, _, err := net.SplitHostPort(c.PeerAddress); err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
		bad("peerAddress", "%q is an address to listen on; write the host and port at which other nodes reach this one", c.PeerAddress)
	}
	if (k.Kubernetes.Service != "" || k.Kubernetes.Label || k.Kubernetes.ScaleDown) && k.Kubernetes.Namespace == "" {
		bad("cluster.kubernetes.namespace", "must be set: this node does not run in a pod that has one")
	}
	for _, p := range k.Peers {
		if _, _, err := net.SplitHostPort(p); err != nil {
			bad("cluster.peers", "%q is not an address; write host:port", p)
		}
	}
	if k.Gossip.Address != "" && k.Gossip.KeyFile == "" {
		bad("cluster.gossip.keyFile", "must be set: gossip is always encrypted")
	}
}
