package config

// Runtimes names the runtime of each kind of build.
type Runtimes struct {
	Ref        string `json:"ref" doc:"Runtime of builds from an image reference: 'copy', 'wsmanager' or 'kubernetes'."`
	Dockerfile string `json:"dockerfile" doc:"Runtime of builds from a Dockerfile: 'buildkit', 'wsmanager' or 'kubernetes'. Empty: buildkit if buildkit.addresses is set, else wsmanager if orchestrator.wsman.address is set."`
}

// BuildKit names the daemons that build Dockerfiles, and what builds may use there.
type BuildKit struct {
	Addresses       []string `json:"addresses" doc:"unix:///path or tcp://host:port of each daemon. Empty: builds from a Dockerfile are refused, unless another runtime executes them."`
	TLS             TLSFiles `json:"tls" doc:"Client certificate for tcp daemons."`
	CacheRepository string   `json:"cacheRepository" doc:"Repository of the build cache. Empty: no cache in a registry."`
	Frontends       []string `json:"frontends" doc:"Images that a '# syntax=' line may name, in addition to docker/dockerfile. For docker/dockerfile the daemon uses its built-in frontend."`
	Networks        []string `json:"networks" doc:"Network modes that requests may choose: default, none, host."`
	MaxContextBytes int64    `json:"maxContextBytes" doc:"Limit of an uploaded or downloaded context, in bytes."`
	ContextAge      Duration `json:"contextAge" doc:"How long an uploaded context is kept in the base repository after its last use. 0: for ever."`
}

// Builds has the limits and retries of builds.
type Builds struct {
	Timeout             Duration `json:"timeout" doc:"Time limit of a build whose request has none."`
	MaxTimeout          Duration `json:"maxTimeout" doc:"Greatest time limit that a request may choose."`
	Attempts            int      `json:"attempts" doc:"Number of attempts that may fail because of the infrastructure."`
	UncountedAttempts   int      `json:"uncountedAttempts" doc:"Number of attempts that may end with their node."`
	RetryBackoff        Duration `json:"retryBackoff" doc:"Pause before the second attempt. It doubles before each further attempt."`
	RetryBackoffMax     Duration `json:"retryBackoffMax" doc:"Longest pause before an attempt."`
	RunningPerNode      int      `json:"runningPerNode" doc:"Number of attempts that this node runs at a time."`
	RunningTotal        int      `json:"runningTotal" doc:"Number of attempts that the cluster runs at a time. 0: no limit."`
	RunningPerRequester int      `json:"runningPerRequester" doc:"Number of attempts that the cluster runs at a time for one requester. 0: no limit."`
	QueueTotal          int      `json:"queueTotal" doc:"Number of queued builds. Further builds are refused."`
	QueuedPerRequester  int      `json:"queuedPerRequester" doc:"Number of queued builds of one requester. Further builds are refused. 0: no limit."`
}

// History bounds the ended builds that the cluster keeps.
type History struct {
	Total        int64    `json:"total" doc:"Number of ended builds that are kept."`
	PerRequester int64    `json:"perRequester" doc:"Number of ended builds that are kept for each requester."`
	MaxAge       Duration `json:"maxAge" doc:"Ended builds are removed after this time."`
	MinAge       Duration `json:"minAge" doc:"No ended build is removed before this time."`
}

// RequestIDs bounds the request ids that the cluster keeps.
type RequestIDs struct {
	Age Duration `json:"age" doc:"How long a repeated request with the same request id returns the same build."`
}

// Logs describes the logs of attempts and their copies.
type Logs struct {
	MaxBytes     int64    `json:"maxBytes" doc:"Limit of the log of one attempt, in bytes."`
	SegmentBytes int64    `json:"segmentBytes" doc:"Size of a segment file, in bytes."`
	Copies       int      `json:"copies" doc:"Number of nodes that hold the log of an attempt, the owner included."`
	ReplaceAfter Duration `json:"replaceAfter" doc:"A node that holds a copy of a live log and does not respond for this time is replaced by another node."`
	RepairAfter  Duration `json:"repairAfter" doc:"Complete logs of a node that is lost for this time are copied to another node."`
	FenceTimeout Duration `json:"fenceTimeout" doc:"A log is closed as lost when all nodes that hold it are unreachable for this time."`
	SealTimeout  Duration `json:"sealTimeout" doc:"How long the end of an attempt waits until all nodes that hold its log have all of it. Then the log ends where all of them have it."`
	Retention    Duration `json:"retention" doc:"Logs are removed this long after the end of their build, but not before history.minAge. Readers get a message that the log was removed. 0: logs stay as long as their build."`
	TotalBytes   int64    `json:"totalBytes" doc:"Limit of all complete logs in the cluster, in bytes, each log counted once. Logs of the oldest builds are removed first. 0: no limit."`
}
