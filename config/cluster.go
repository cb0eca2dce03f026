package config

// Cluster describes how a node finds the others and forms a cluster with them.
type Cluster struct {
	Name       string          `json:"name" doc:"Name of the cluster. It is the trust domain of the certificates (spiffe://NAME/node/...)."`
	Address    string          `json:"address" doc:"Address of the peer port, for Raft and for calls between nodes. Empty: the node runs alone."`
	Peers      []string        `json:"peers" doc:"host:port of the peer ports of all nodes. This node may be in the list."`
	DNS        string          `json:"dns" doc:"name:port; each address of the name is a peer, such as with a headless service. The name is resolved again while the node looks for peers."`
	Kubernetes KubernetesPeers `json:"kubernetes" doc:"Peers from the API of Kubernetes: the pods of a headless service. For clusters where DNS names are not available."`
	Expect     int             `json:"expect" doc:"Number of nodes that form a new cluster together, 1 or more. 0: the node only joins an existing cluster."`
	Voters     int             `json:"voters" doc:"Number of nodes that vote: 1, 3 or 5. Further nodes follow; they own builds and serve reads too."`
	Zone       string          `json:"zone" doc:"Failure domain of the node. Voters are spread over zones."`
	TLS        TLSFiles        `json:"tls" doc:"CA, certificate and key of the peer port. The files are read again when they change."`
	Level      int             `json:"featureLevel" doc:"Greatest feature level to which this node raises the cluster while it leads. To be able to go back after an upgrade, set it on all nodes to the level of the cluster ('cluster status') before the upgrade, and remove it when the upgrade is final. 0: the greatest level that all members know."`
	PruneAfter Duration        `json:"pruneAfter" doc:"Members that are silent for this time are removed while three members are left. 0: no member is removed."`
	Gossip     Gossip          `json:"gossip" doc:"Gossip, by which nodes find each other at new addresses."`
}

// KubernetesPeers names the service of the nodes, and the changes of a node to its own objects in
// Kubernetes.
type KubernetesPeers struct {
	Namespace string `json:"namespace" doc:"Namespace of the service. Empty: the namespace of this node's own pod."`
	Service   string `json:"service" doc:"Name of the service. It needs a port named peer and publishNotReadyAddresses. Empty: not used. The account (kubernetes.kubeconfig) must be allowed to list endpointslices."`
	Label     bool   `json:"leaderLabel" doc:"The leader's pod gets the label image-builder/leader: \"true\", for chaos tools and people. The node must have the name of its pod. The account must be allowed to get, list and patch pods."`
	ScaleDown bool   `json:"leaveOnScaleDown" doc:"A node that is stopped because its stateful set was scaled down leaves the cluster. The node must have the name of its pod. The account must be allowed to get the stateful set."`
}

// Gossip describes the gossip port.
type Gossip struct {
	Address   string `json:"address" doc:"Address of gossip, UDP and TCP. Empty: no gossip."`
	Advertise string `json:"advertise" doc:"IP:port at which other nodes reach this address. Empty: detected."`
	KeyFile   string `json:"keyFile" doc:"File with base64 keys of 16 or 32 bytes, one per line. The first key encrypts, all keys decrypt. The file is read again when it changes."`
}

// Owner bounds how long a node may run builds without the leader.
type Owner struct {
	Lease Duration `json:"lease" doc:"A node that hears no leader for this time stops its attempts."`
	Grace Duration `json:"grace" doc:"The leader ends the attempts of a node that is silent for lease plus grace."`
}

// Raft describes the replicated log.
type Raft struct {
	SnapshotThreshold int64    `json:"snapshotThreshold" doc:"Number of commands after which a snapshot is taken."`
	SnapshotInterval  Duration `json:"snapshotInterval" doc:"How often the node checks whether a snapshot is due."`
	SegmentBytes      int64    `json:"segmentBytes" doc:"Size of a file of the log, in bytes. It is allocated in advance."`
	TrailingLogs      int64    `json:"trailingLogs" doc:"Number of commands that stay in the log after a snapshot, for nodes that are behind."`
	Heartbeat         Duration `json:"heartbeat" doc:"A follower that hears no leader for this time starts an election. 0: 500ms, or 100ms for a node that runs alone."`
	Election          Duration `json:"election" doc:"How long a candidate waits for votes. 0: the same as heartbeat."`
	Lease             Duration `json:"lease" doc:"A leader that reaches no majority for this time steps down. 0: the same as heartbeat."`
}
