package config

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/copy"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

// Duration is a time.Duration that reads and writes as Go writes it ("1h30m").
type Duration time.Duration

// MarshalText renders the duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads a duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is no duration; write it like 30s, 10m or 1h30m", b)
	}
	*d = Duration(v)
	return nil
}

// Config is the configuration of a node: the keys that Gitpod installs already
// have (orchestrator, refCache, server) and our own beside them. The doc tags
// are what `config` prints.
type Config struct {
	Schema string `json:"$schema,omitempty" doc:"Accepted and ignored."`

	Name           string `json:"name" doc:"Stable name of the node, unique in the cluster; the host's name if empty."`
	DataDir        string `json:"dataDir" doc:"Directory of state and logs. One process at a time."`
	PeerAddress    string `json:"peerAddress" doc:"host:port under which other nodes reach this one; a DNS name best. The host's name and the port of cluster.address if empty."`
	OperatorSocket string `json:"operatorSocket" doc:"Unix socket for operator calls; <dataDir>/operator.sock if empty."`
	MetricsAddress string `json:"metricsAddress" doc:"Address of /metrics."`
	HealthAddress  string `json:"healthAddress" doc:"Address of /ready and /live."`
	PprofAddress   string `json:"pprofAddress" doc:"Address of pprof. Empty: none but the operators' socket (curl --unix-socket). With server.services.grpc.tls.caPath it is HTTPS with the certificates there, for operators' client certificates only; without it must be on loopback, and is for everybody there."`

	Server       ServerConfig       `json:"server" doc:"The API."`
	HTTP         HTTPConfig         `json:"http" doc:"The web page, and logs of builds for Gitpod's server and dashboards."`
	Cluster      ClusterConfig      `json:"cluster" doc:"The other nodes. Without an address the node is alone."`
	Orchestrator OrchestratorConfig `json:"orchestrator" doc:"Repositories and credentials, in Gitpod's schema."`
	RefCache     RefCacheConfig     `json:"refCache" doc:"References that are kept resolved: each is asked for by one node per interval, and answered by all from memory."`
	Registry     RegistryConfig     `json:"registry" doc:"How registries are spoken to."`
	Runtimes     RuntimesConfig     `json:"runtimes" doc:"What runs which builds."`
	BuildKit     BuildKitConfig     `json:"buildkit" doc:"The daemons that build Dockerfiles."`
	Kubernetes   KubernetesConfig   `json:"kubernetes" doc:"Builds in pods of a Kubernetes cluster, one for each attempt: the runtime kubernetes."`
	Owner        OwnerConfig        `json:"owner" doc:"How long a node keeps its builds without a leader."`
	Builds       BuildsConfig       `json:"builds" doc:"Limits and retries."`
	History      HistoryConfig      `json:"history" doc:"How long ended builds are kept."`
	RequestIDs   RequestIDsConfig   `json:"requestIds" doc:"How long request ids are remembered."`
	Logs         LogsConfig         `json:"logs" doc:"Logs of attempts."`
	Sealing      SealingConfig      `json:"sealing" doc:"Encryption of secrets in the replicated state."`
	Clock        ClockConfig        `json:"clock" doc:"Protection against clocks that are wrong."`
	Raft         RaftConfig         `json:"raft" doc:"The replicated log."`
	Log          LogConfig          `json:"log" doc:"The node's own log."`
	Tracing      TracingConfig      `json:"tracing" doc:"Traces of builds, to an OpenTelemetry collector. Off without an endpoint."`
	Ready        ReadyConfig        `json:"ready" doc:"When /ready says so."`
	Shutdown     ShutdownConfig     `json:"shutdown" doc:"Graceful stop."`
}

// ClusterConfig says how a node finds the others.
type ClusterConfig struct {
	Name       string       `json:"name" doc:"Name of the cluster, the trust domain of its certificates (spiffe://NAME/node/...)."`
	Address    string       `json:"address" doc:"Address of the peer port, for Raft and calls among nodes. Empty: the node is alone."`
	Peers      []string     `json:"peers" doc:"host:port of the peer ports of all nodes, this one included or not."`
	DNS        string       `json:"dns" doc:"name:port, each address of which is a peer, such as a headless service; asked again while peers are looked for."`
	Kubernetes PeersConfig  `json:"kubernetes" doc:"Peers are the pods behind a headless service, asked for at Kubernetes' API: where DNS names are not to be had."`
	Expect     int          `json:"expect" doc:"How many nodes form a new cluster together, 1 or more. 0: only ever join one."`
	Voters     int          `json:"voters" doc:"How many nodes vote, 3 or 5. Further nodes follow, own builds and serve reads."`
	Zone       string       `json:"zone" doc:"Failure domain of the node; voters are spread over zones."`
	TLS        WSManagerTLS `json:"tls" doc:"CA, certificate and key of the peer port; read again when they change."`
	Level      int          `json:"featureLevel" doc:"Greatest feature level that this node raises the cluster to while it leads. Set it on all nodes to the cluster's own (cluster status) before an upgrade, to be able to go back; remove it once the upgrade stays. 0: what all members know."`
	PruneAfter Duration     `json:"pruneAfter" doc:"Members that are silent for so long are removed, while three are left; 0 keeps them."`
	Gossip     GossipConfig `json:"gossip" doc:"Gossip, by which nodes find each other at new addresses."`
}

// PeersConfig names the service behind which the nodes are, and what they tell
// Kubernetes.
type PeersConfig struct {
	Namespace string `json:"namespace" doc:"Its namespace; that of this node's own pod if empty."`
	Service   string `json:"service" doc:"Its name; it has a port named peer and publishNotReadyAddresses. Empty: not used. The account (kubernetes.kubeconfig) has to list endpointslices."`
	Label     bool   `json:"leaderLabel" doc:"The leader's pod carries the label image-builder/leader: \"true\", for chaos tools and people. The node's name is its pod's; the account has to get, list and patch pods."`
	ScaleDown bool   `json:"leaveOnScaleDown" doc:"A node whose stateful set has been scaled so that its pod has no place left gives up its membership when it is stopped. The node's name is its pod's; the account has to get the stateful set."`
}

// GossipConfig describes gossip.
type GossipConfig struct {
	Address   string `json:"address" doc:"Address of gossip, UDP and TCP. Empty: none."`
	Advertise string `json:"advertise" doc:"IP:port under which other nodes reach it; found by itself if empty."`
	KeyFile   string `json:"keyFile" doc:"File of base64 keys of 16 or 32 bytes, one a line: the first encrypts, all decrypt; read again when it changes."`
}

// OwnerConfig says for how long a node may run builds without the leader.
type OwnerConfig struct {
	Lease Duration `json:"lease" doc:"A node that hears no leader for so long stops its attempts."`
	Grace Duration `json:"grace" doc:"The leader ends the attempts of a node that is silent for lease and grace."`
}

// ServerConfig is Gitpod's `server`.
type ServerConfig struct {
	Services ServicesConfig `json:"services" doc:"What is served."`
}

// ServicesConfig is Gitpod's `server.services`.
type ServicesConfig struct {
	GRPC GRPCConfig `json:"grpc" doc:"gRPC: the native and the Gitpod API."`
	HTTP any        `json:"http,omitempty" doc:"Accepted and ignored."`
}

// GRPCConfig is Gitpod's `server.services.grpc`.
type GRPCConfig struct {
	Address string    `json:"address" doc:"Address to listen on."`
	TLS     TLSConfig `json:"tls" doc:"Certificates; plain text if empty."`
}

// HTTPConfig is the port for browsers and for log clients of Gitpod.
type HTTPConfig struct {
	Address   string    `json:"address" doc:"Address to listen on; 'none' for none, and builds tell no log_info. Empty: :8081 where orchestrator.wsman.address is set, else none."`
	PublicURL string    `json:"publicURL" doc:"Where clients reach that port on any node, such as https://image-builder.example.com; http://<peer host>:<port> if empty."`
	TLS       TLSConfig `json:"tls" doc:"Certificates; plain text if empty."`
	UI        string    `json:"ui" doc:"The web page below /ui/: on, off, or auto: on where http.address is set, http.publicURL is not, and there is no ws-manager, unless it would show builds to callers whom gRPC refuses."`
	Nodes     []string  `json:"nodes" doc:"URLs of that port on all nodes, as browsers reach them: the page goes on at another one when a node fails. Empty: only the one that it came from, or what balances the load."`
}

// noHTTP as an address means that there is no port for log clients.
const noHTTP = "none"

// defaultHTTP is where log clients of a Gitpod install find the logs.
const defaultHTTP = ":8081"

// listens answers the address to listen on, empty for none.
func (h HTTPConfig) Listens() string {
	if h.Address == noHTTP {
		return ""
	}
	return h.Address
}

// RuntimesConfig says what runs which builds.
type RuntimesConfig struct {
	Ref        string `json:"ref" doc:"Builds from an image reference: 'copy', 'wsmanager' or 'kubernetes'."`
	Dockerfile string `json:"dockerfile" doc:"Builds from a Dockerfile: 'buildkit', 'wsmanager' or 'kubernetes'. Empty: buildkit if it has addresses, else wsmanager if it has one."`
}

// TLSConfig names certificates. They are read again at each handshake.
type TLSConfig struct {
	CAPath     string `json:"caPath" doc:"CA of client certificates, PEM. All three files are read again when they change."`
	CertPath   string `json:"certPath" doc:"Server certificate, PEM."`
	KeyPath    string `json:"keyPath" doc:"Its key, PEM."`
	ClientAuth string `json:"clientAuth,omitempty" doc:"'require' refuses clients without a certificate; otherwise one is verified if given."`
}

// OrchestratorConfig is Gitpod's `orchestrator`.
type OrchestratorConfig struct {
	WSManager                WSManagerConfig `json:"wsman,omitempty" doc:"Gitpod's workspace manager, in whose workspaces the runtime wsmanager builds."`
	PullSecret               string          `json:"pullSecret,omitempty" doc:"Name of the secret with registry credentials that the proxy of build workspaces gets."`
	PullSecretFile           string          `json:"pullSecretFile" doc:"docker config.json with the install's credentials; read again when it changes."`
	BaseImageRepository      string          `json:"baseImageRepository" doc:"Repository of base images, without tag."`
	WorkspaceImageRepository string          `json:"workspaceImageRepository" doc:"Repository of workspace images, without tag."`
	BuilderImage             string          `json:"builderImage,omitempty" doc:"Image of build workspaces."`
	EnableAdditionalECRAuth  bool            `json:"enableAdditionalECRAuth,omitempty" doc:"Use the identity of this process at Amazon's registries; the same as registry.identities: [ecr]."`
	SubassemblyBucketName    string          `json:"subassemblyBucketName,omitempty" doc:"Accepted and ignored."`
	SubassemblyBucketPrefix  string          `json:"subassemblyBucketPrefix,omitempty" doc:"Accepted and ignored."`
}

// WSManagerConfig is Gitpod's `orchestrator.wsman`.
type WSManagerConfig struct {
	Address string       `json:"address,omitempty" doc:"Address of the workspace manager."`
	TLS     WSManagerTLS `json:"tls,omitempty" doc:"Its client certificates."`
}

// WSManagerTLS is Gitpod's `orchestrator.wsman.tls`.
type WSManagerTLS struct {
	CA   string `json:"ca,omitempty" doc:"CA, PEM file."`
	Cert string `json:"crt,omitempty" doc:"Certificate, PEM file."`
	Key  string `json:"key,omitempty" doc:"Key, PEM file."`
}

// RefCacheConfig is Gitpod's `refCache`.
type RefCacheConfig struct {
	Interval        Duration `json:"interval" doc:"How often a reference is resolved again that has no interval of its own. In force from the first start of a cluster on; later 'cache set-interval' changes it."`
	Refs            []string `json:"refs" doc:"The references. They are put into the cache once in the life of a cluster; later 'cache add' and 'cache remove' change it."`
	KeepFor         Duration `json:"keepFor" doc:"How long after the end of its interval the last digest of a reference is answered that cannot be refreshed."`
	Prewarm         string   `json:"prewarm" doc:"Whether the daemons of buildkit.addresses pull the images of the references before a build needs them: 'never', or 'changed': whenever a refresh has found another digest, and once for a daemon whose cache is new. The same on all nodes."`
	NotifyTokenFile string   `json:"notifyTokenFile" doc:"File with a token of 16 characters or more. With it http.address takes notifications of registries (distribution's format) at /v1/registry/notifications, with the header Authorization: Bearer TOKEN; what they name is refreshed at once. Read again when it changes."`
}

// BuildKitConfig names the daemons that build Dockerfiles.
type BuildKitConfig struct {
	Addresses       []string     `json:"addresses" doc:"unix:///path or tcp://host:port of each daemon. None: Dockerfile builds are refused, unless another runtime does them."`
	TLS             WSManagerTLS `json:"tls" doc:"Client certificate for tcp daemons."`
	CacheRepository string       `json:"cacheRepository" doc:"Repository for the build cache; none if empty."`
	Frontends       []string     `json:"frontends" doc:"Images that a '# syntax=' line may name, beside docker/dockerfile, for which the daemon's own stands in."`
	Networks        []string     `json:"networks" doc:"Network modes that requests may choose: default, none, host."`
	MaxContextBytes int64        `json:"maxContextBytes" doc:"Limit of a context that is uploaded or downloaded, in bytes."`
	ContextAge      Duration     `json:"contextAge" doc:"How long an uploaded context is kept in the base repository after its last use; 0 for ever."`
}

// BuildsConfig are limits and retries.
type BuildsConfig struct {
	Timeout             Duration `json:"timeout" doc:"Limit of a build whose request names none."`
	MaxTimeout          Duration `json:"maxTimeout" doc:"Greatest limit that a request may name."`
	Attempts            int      `json:"attempts" doc:"Attempts that may fail by the infrastructure's fault."`
	UncountedAttempts   int      `json:"uncountedAttempts" doc:"Attempts that may end with their node."`
	RetryBackoff        Duration `json:"retryBackoff" doc:"Pause before the second attempt; it doubles each time."`
	RetryBackoffMax     Duration `json:"retryBackoffMax" doc:"Longest pause."`
	RunningPerNode      int      `json:"runningPerNode" doc:"Attempts that this node runs at once."`
	RunningTotal        int      `json:"runningTotal" doc:"Attempts that run at once in all; 0: no limit."`
	RunningPerRequester int      `json:"runningPerRequester" doc:"Attempts that run at once for one requester; 0: no limit."`
	QueueTotal          int      `json:"queueTotal" doc:"Queued builds; more are refused."`
}

// HistoryConfig bounds the history.
type HistoryConfig struct {
	Total        int64    `json:"total" doc:"Ended builds kept in all."`
	PerRequester int64    `json:"perRequester" doc:"Ended builds kept per requester."`
	MaxAge       Duration `json:"maxAge" doc:"Ended builds are removed after this."`
	MinAge       Duration `json:"minAge" doc:"No ended build is removed before this."`
}

// RequestIDsConfig bounds request ids.
type RequestIDsConfig struct {
	Age Duration `json:"age" doc:"How long a request id answers the same build."`
}

// LogsConfig bounds logs.
type LogsConfig struct {
	MaxBytes     int64    `json:"maxBytes" doc:"Limit of one attempt's log, in bytes."`
	SegmentBytes int64    `json:"segmentBytes" doc:"Size of a segment file, in bytes."`
	Copies       int      `json:"copies" doc:"How many nodes hold the log of an attempt, the owner included."`
	ReplaceAfter Duration `json:"replaceAfter" doc:"A node that holds a copy of a live log and does not answer for so long is replaced."`
	RepairAfter  Duration `json:"repairAfter" doc:"Complete logs whose node is lost for so long are copied elsewhere."`
	FenceTimeout Duration `json:"fenceTimeout" doc:"A log none of whose nodes is there for so long is closed as lost."`
	Retention    Duration `json:"retention" doc:"Logs are removed so long after their build's end, but not before history.minAge; readers are told so. 0: they stay as long as the build."`
	TotalBytes   int64    `json:"totalBytes" doc:"Complete logs that are kept in the cluster, in bytes, each counted once; those of the oldest builds go first. 0: no limit."`
}

// SealingConfig names the keys.
type SealingConfig struct {
	KeyFile string `json:"keyFile" doc:"JSON list of {id, key}, mode 0600, outside of the data directory. A single node without one makes <dataDir>.sealing-key.json."`
}

// ClockConfig protects against wrong clocks.
type ClockConfig struct {
	MaxJump      Duration `json:"maxJump" doc:"How far the clock may be behind the last change at the start."`
	MaxJumpAhead Duration `json:"maxJumpAhead" doc:"How far it may be ahead."`
	AcceptJump   bool     `json:"acceptJump" doc:"Start nevertheless."`
}

// RaftConfig is about the replicated log.
type RaftConfig struct {
	SnapshotThreshold int64    `json:"snapshotThreshold" doc:"Commands after which a snapshot is taken."`
	SnapshotInterval  Duration `json:"snapshotInterval" doc:"How often that is looked at."`
	SegmentBytes      int64    `json:"segmentBytes" doc:"Size of a file of the log, allocated in advance, in bytes."`
	TrailingLogs      int64    `json:"trailingLogs" doc:"Commands that stay in the log behind a snapshot, for nodes that trail."`
	Heartbeat         Duration `json:"heartbeat" doc:"A follower that hears no leader for so long asks for an election. 0: 500ms, 100ms for a node alone."`
	Election          Duration `json:"election" doc:"How long a candidate waits for votes. 0: as heartbeat."`
	Lease             Duration `json:"lease" doc:"A leader that reaches no majority for so long steps down. 0: as long as heartbeat."`
}

// LogConfig is the node's own log.
type LogConfig struct {
	Format string `json:"format" doc:"'json' or 'text'."`
	Level  string `json:"level" doc:"'debug', 'info', 'warn' or 'error'."`
}

// ReadyConfig says when clients should come to the node.
type ReadyConfig struct {
	After    Duration `json:"after" doc:"A node that starts is ready once it has known a leader for so long. 0: at once."`
	Patience Duration `json:"patience" doc:"A ready node stays ready for so long without a leader."`
}

// ShutdownConfig bounds the graceful stop.
type ShutdownConfig struct {
	Grace Duration `json:"grace" doc:"How long calls may take to end."`
	Drain Duration `json:"drain" doc:"How long running builds may take to end that cannot go on under another node; then they are tried again there."`
}

// DefaultConfig answers the configuration of a node that nobody configured.
func DefaultConfig() Config {
	d := func(v time.Duration) Duration { return Duration(v) }
	return Config{
		DataDir:        "/var/lib/image-builder",
		MetricsAddress: ":9500",
		HealthAddress:  ":9501",
		Server:         ServerConfig{Services: ServicesConfig{GRPC: GRPCConfig{Address: ":8080"}}},
		HTTP:           HTTPConfig{UI: "auto", Nodes: []string{}},
		Cluster:        ClusterConfig{Name: cluster.DefaultCluster, Peers: []string{}, Voters: 3, PruneAfter: d(24 * time.Hour)},
		Owner:          OwnerConfig{Lease: d(4 * time.Second), Grace: d(2 * time.Second)},
		RefCache:       RefCacheConfig{Interval: d(builds.DefaultCacheInterval), Refs: []string{}, KeepFor: d(24 * time.Hour), Prewarm: PrewarmNever},
		Runtimes:       RuntimesConfig{Ref: copy.Name},
		Registry:       defaultRegistry(),
		BuildKit:       BuildKitConfig{Addresses: []string{}, Frontends: []string{}, Networks: []string{"default", "none"}, MaxContextBytes: 1 << 30, ContextAge: Duration(24 * time.Hour)},
		Kubernetes:     defaultKubernetes(),
		Builds: BuildsConfig{
			Timeout: d(time.Hour), MaxTimeout: d(6 * time.Hour), Attempts: 3, UncountedAttempts: 10,
			RetryBackoff: d(time.Second), RetryBackoffMax: d(time.Minute), RunningPerNode: 32, QueueTotal: 100000,
		},
		History:    HistoryConfig{Total: 10000, PerRequester: 2000, MaxAge: d(7 * 24 * time.Hour), MinAge: d(10 * time.Minute)},
		RequestIDs: RequestIDsConfig{Age: d(24 * time.Hour)},
		Logs:       LogsConfig{MaxBytes: 256 << 20, SegmentBytes: 8 << 20, Copies: 2, ReplaceAfter: d(time.Second), RepairAfter: d(10 * time.Minute), FenceTimeout: d(time.Minute)},
		Clock:      ClockConfig{MaxJump: d(time.Hour), MaxJumpAhead: d(30 * 24 * time.Hour)},
		Raft:       RaftConfig{SnapshotThreshold: 8192, TrailingLogs: 10240, SegmentBytes: 64 << 20, SnapshotInterval: d(2 * time.Minute)},
		Log:        LogConfig{Format: "json", Level: "info"},
		Tracing:    TracingConfig{SampleRatio: 1},
		Ready:      ReadyConfig{After: d(2 * time.Second), Patience: d(5 * time.Second)},
		Shutdown:   ShutdownConfig{Grace: d(20 * time.Second), Drain: d(10 * time.Second)},
	}
}

// complete fills in what follows from other values.
func (c *Config) Complete() {
	if c.Name == "" {
		c.Name, _ = os.Hostname()
	}
	if _, port, err := net.SplitHostPort(c.Cluster.Address); err == nil && c.PeerAddress == "" {
		host, _ := os.Hostname()
		c.PeerAddress = net.JoinHostPort(host, port)
	}
	if c.OperatorSocket == "" {
		c.OperatorSocket = c.DataDir + "/operator.sock"
	}
	c.HTTP.UI = c.webPage()
	if c.HTTP.Address == "" && c.Orchestrator.WSManager.Address != "" {
		c.HTTP.Address = defaultHTTP
	}
	if _, port, err := net.SplitHostPort(c.HTTP.Listens()); err == nil && c.HTTP.PublicURL == "" {
		host, _, err := net.SplitHostPort(c.PeerAddress)
		if err != nil {
			host, _ = os.Hostname()
		}
		c.HTTP.PublicURL = "http://" + net.JoinHostPort(host, port)
		if c.HTTP.TLS.CertPath != "" {
			c.HTTP.PublicURL = "https://" + net.JoinHostPort(host, port)
		}
	}
	c.Kubernetes.complete(c.Cluster.Name)
	if k := &c.Cluster.Kubernetes; (k.Service != "" || k.Label) && k.Namespace == "" {
		k.Namespace = kubernetes.OwnNamespace()
	}
	if c.Runtimes.Dockerfile == "" {
		switch {
		case len(c.BuildKit.Addresses) > 0:
			c.Runtimes.Dockerfile = buildkit.Name
		case c.Orchestrator.WSManager.Address != "":
			c.Runtimes.Dockerfile = wsmanager.Name
		}
	}
}
