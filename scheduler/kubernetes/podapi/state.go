package podapi

import "encoding/json"

// Paths of the worker's HTTPS server. Every request carries the job's token
// (Authorization: Bearer).
const (
	// PathOutput streams raw output from the byte `offset` until its end. 410
	// says that the byte is not kept any more, 416 that there is none yet.
	PathOutput = "/v1/output"
	// PathState answers a State with a version above `after`; it waits for one
	// for up to StateWait.
	PathState = "/v1/state"
	// PathAck (POST) tells that the output before `offset` is stored; with
	// `final=true`, that the result is known too and the worker may end.
	PathAck = "/v1/ack"
)

// StateWait is how long the worker lets a question for news wait, in seconds.
const StateWait = 20

// State is what a worker tells about its workload.
type State struct {
	Version uint64 `json:"version"`
	// Running: the workload has started.
	Running bool `json:"running"`
	// Steps are imagebuilder.v1.Step messages in JSON.
	Steps []json.RawMessage `json:"steps,omitempty"`
	// Length of the output so far.
	Length int64 `json:"length"`
	// Result is set once the workload has ended; the length is final then.
	Result *Result `json:"result,omitempty"`
}
