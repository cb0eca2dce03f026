package config

// Sealing names the keys that encrypt secrets.
type Sealing struct {
	KeyFile string `json:"keyFile" doc:"JSON list of {id, key}, mode 0600, outside of the data directory. Empty: a node that runs alone creates <dataDir>.sealing-key.json."`
}

// Clock bounds how far the clock may be wrong when a node starts.
type Clock struct {
	MaxJump      Duration `json:"maxJump" doc:"A node does not start if its clock is further behind the last change of the state than this."`
	MaxJumpAhead Duration `json:"maxJumpAhead" doc:"A node does not start if its clock is further ahead of the last change of the state than this."`
	AcceptJump   bool     `json:"acceptJump" doc:"Start nevertheless."`
}

// Ready says when load balancers should send clients to the node.
type Ready struct {
	After    Duration `json:"after" doc:"A starting node becomes ready when it has known a leader for this time. 0: at once."`
	Patience Duration `json:"patience" doc:"A ready node stays ready for this time without a leader."`
}

// Shutdown bounds the graceful stop.
type Shutdown struct {
	Grace Duration `json:"grace" doc:"How long calls may take to end."`
	Drain Duration `json:"drain" doc:"How long running builds may take to end that cannot continue under another node. After that they are retried on another node."`
}
