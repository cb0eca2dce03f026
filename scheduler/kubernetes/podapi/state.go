package podapi

import "encoding/json"

// Paths of the HTTPS server of the worker. Every request carries the token of the job
// (Authorization: Bearer).
const (
	// PathOutput streams raw output from the byte `offset` to the end. Status 410 means that the
	// byte is no longer kept, 416 that it does not exist yet.
	PathOutput = "/v1/output"
	// PathState returns a State with a version above `after`. It waits up to StateWait for one.
	PathState = "/v1/state"
	// PathAck (POST) reports that all copies of the log have the output before `offset`. With
	// `final=true` it also reports that the result is known, and the worker may end.
	PathAck = "/v1/ack"
)

// StateWait is the maximum time that the worker holds a request for the next State, in seconds.
const StateWait = 20

// State is the report of a worker on its workload.
type State struct {
	Version uint64 `json:"version"`
	// Running means that the workload has started.
	Running bool `json:"running"`
	// Steps are imagebuilder.v1.Step messages in JSON.
	Steps []json.RawMessage `json:"steps,omitempty"`
	// Length is the length of the output so far, in bytes.
	Length int64 `json:"length"`
	// Result is set once the workload has ended; the length is final then.
	Result *Result `json:"result,omitempty"`
}
