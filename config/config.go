// Package config has the configuration of a node: its keys and defaults, strict decoding of JSON
// and YAML files, validation, and the printed reference and JSON schema. It only describes: it
// opens no port and connects to nothing. Validate reads the files that the configuration names.
//
// A key is a field of Config or of the struct of its section, with its name in the json tag and its
// description in the doc tag. Most sections have a file of their own, such as registry.go.
// values.go has the types of values that several sections use.
//
//	cfg, warnings, err := config.Load(paths)
//	cfg.Complete()
//	err = cfg.Validate()
package config

import (
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/scheduler/copy"
)

// Config is the configuration of a node. It has the keys of Gitpod's configuration file
// (orchestrator, refCache, server) and further ones. The doc tags are printed by `config`.
type Config struct {
	Schema string `json:"$schema,omitempty" doc:"Accepted and ignored."`

	Name           string `json:"name" doc:"Stable name of the node, unique in the cluster. Empty: the host name."`
	DataDir        string `json:"dataDir" doc:"Directory of the state and the logs. Only one process may use it at a time."`
	PeerAddress    string `json:"peerAddress" doc:"host:port at which other nodes reach this node, preferably with a DNS name. Empty: the host name and the port of cluster.address."`
	OperatorSocket string `json:"operatorSocket" doc:"Unix socket for calls of operators. Empty: <dataDir>/operator.sock."`
	MetricsAddress string `json:"metricsAddress" doc:"Address of /metrics."`
	HealthAddress  string `json:"healthAddress" doc:"Address of /ready and /live."`
	PprofAddress   string `json:"pprofAddress" doc:"Address of pprof. Empty: pprof is served on the operator socket only (curl --unix-socket). With server.services.grpc.tls.caPath it is served over HTTPS with those certificates, and only to client certificates of operators. Without caPath the address must be on loopback, and every local user can connect."`

	Server       Server       `json:"server" doc:"The API."`
	HTTP         HTTP         `json:"http" doc:"The web page, and the logs of builds for Gitpod's server and dashboards."`
	Cluster      Cluster      `json:"cluster" doc:"The other nodes. Without cluster.address the node runs alone."`
	Orchestrator Orchestrator `json:"orchestrator" doc:"Repositories and credentials, in Gitpod's schema."`
	RefCache     RefCache     `json:"refCache" doc:"References that the cluster keeps resolved. One node resolves each reference once per interval, and all nodes return its digest from memory."`
	Registry     Registry     `json:"registry" doc:"Access to registries."`
	Runtimes     Runtimes     `json:"runtimes" doc:"The runtime of each kind of build."`
	BuildKit     BuildKit     `json:"buildkit" doc:"The BuildKit daemons that build Dockerfiles."`
	Kubernetes   Kubernetes   `json:"kubernetes" doc:"The runtime kubernetes: builds in pods of a Kubernetes cluster, one pod for each attempt."`
	Owner        Owner        `json:"owner" doc:"How long a node keeps its builds without a leader."`
	Builds       Builds       `json:"builds" doc:"Limits and retries of builds."`
	History      History      `json:"history" doc:"How long ended builds are kept."`
	RequestIDs   RequestIDs   `json:"requestIds" doc:"How long request ids are kept."`
	Logs         Logs         `json:"logs" doc:"Logs of attempts."`
	Sealing      Sealing      `json:"sealing" doc:"Encryption of secrets in the replicated state."`
	Clock        Clock        `json:"clock" doc:"Protection against a wrong clock."`
	Raft         Raft         `json:"raft" doc:"The replicated log."`
	Log          Log          `json:"log" doc:"The node's own log."`
	Tracing      Tracing      `json:"tracing" doc:"Traces of builds, sent to an OpenTelemetry collector. Off without an endpoint."`
	Ready        Ready        `json:"ready" doc:"When /ready reports that the node is ready."`
	Shutdown     Shutdown     `json:"shutdown" doc:"Graceful stop."`
}

// Default returns the configuration of a node without a configuration file. It is not valid as it
// is: a node needs repositories.
func Default() Config {
	d := func(v time.Duration) Duration { return Duration(v) }
	return Config{
		DataDir:        "/var/lib/image-builder",
		MetricsAddress: ":9500",
		HealthAddress:  ":9501",
		Server:         Server{Services: Services{GRPC: GRPC{Address: ":8080"}}},
		HTTP:           HTTP{UI: "auto", Nodes: []string{}},
		Cluster:        Cluster{Name: cluster.DefaultCluster, Peers: []string{}, Voters: 3, PruneAfter: d(24 * time.Hour)},
		Owner:          Owner{Lease: d(4 * time.Second), Grace: d(2 * time.Second)},
		RefCache:       RefCache{Interval: d(builds.DefaultCacheInterval), Refs: []string{}, KeepFor: d(24 * time.Hour), Prewarm: PrewarmNever},
		Runtimes:       Runtimes{Ref: copy.Name},
		Registry:       defaultRegistry(),
		BuildKit:       BuildKit{Addresses: []string{}, Frontends: []string{}, Networks: []string{"default", "none"}, MaxContextBytes: 1 << 30, ContextAge: d(24 * time.Hour)},
		Kubernetes:     defaultKubernetes(),
		Builds: Builds{
			Timeout: d(time.Hour), MaxTimeout: d(6 * time.Hour), Attempts: 3, UncountedAttempts: 10,
			RetryBackoff: d(time.Second), RetryBackoffMax: d(time.Minute), RunningPerNode: 32, QueueTotal: 100000, QueuedPerRequester: 50000,
		},
		History:    History{Total: 10000, PerRequester: 2000, MaxAge: d(7 * 24 * time.Hour), MinAge: d(10 * time.Minute)},
		RequestIDs: RequestIDs{Age: d(24 * time.Hour)},
		Logs:       Logs{MaxBytes: 256 << 20, SegmentBytes: 8 << 20, Copies: 2, ReplaceAfter: d(time.Second), RepairAfter: d(10 * time.Minute), FenceTimeout: d(time.Minute), SealTimeout: d(10 * time.Second)},
		Clock:      Clock{MaxJump: d(time.Hour), MaxJumpAhead: d(30 * 24 * time.Hour)},
		Raft:       Raft{SnapshotThreshold: 8192, TrailingLogs: 10240, SegmentBytes: 64 << 20, SnapshotInterval: d(2 * time.Minute)},
		Log:        Log{Format: "json", Level: "info"},
		Tracing:    Tracing{SampleRatio: 1},
		Ready:      Ready{After: d(2 * time.Second), Patience: d(5 * time.Second)},
		Shutdown:   Shutdown{Grace: d(20 * time.Second), Drain: d(10 * time.Second)},
	}
}

// Uses reports whether a runtime executes any kind of build.
func (c *Config) Uses(runtime string) bool {
	return c.Runtimes.Ref == runtime || c.Runtimes.Dockerfile == runtime
}

// KnowsOperators reports whether the API port can identify operators by their client certificates.
func (c *Config) KnowsOperators() bool {
	t := c.Server.Services.GRPC.TLS
	return t.CertPath != "" && t.CAPath != ""
}
