package history_test

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	. "github.com/image-builder-ha/image-builder/verify/history"
)

// client calls the world like the methods of the API, with a pause wherever the real methods wait.
// It loses some of the responses.
type client struct {
	*world
	rec   *Recorder
	name  string
	refs  int
	pause func()
	seen  uint64
	n     int
	known *[]string
}

// run runs several clients with some operations each, interleaved at random. Then it completes all
// builds and observes the end of each.
func run(w *world, clients, refs, operations int) History {
	rec := NewRecorder(func() time.Time { return w.now })
	var known []string
	var next []func() (struct{}, bool)
	for i := range clients {
		c := &client{world: w, rec: rec, name: fmt.Sprintf("c%d", i), refs: refs, known: &known}
		n, stop := iter.Pull(func(yield func(struct{}) bool) {
			c.pause = func() { yield(struct{}{}) }
			for range operations {
				c.operate()
				c.pause()
			}
		})
		defer stop()
		next = append(next, n)
	}
	for len(next) > 0 {
		i := w.rng.IntN(len(next))
		if _, more := next[i](); !more {
			next = append(next[:i], next[i+1:]...)
		}
		w.step()
	}
	for len(w.active) > 0 || len(w.late) > 0 {
		w.step()
	}
	c := &client{world: w, rec: rec, name: "observer", pause: func() {}}
	for _, id := range known {
		c.observe(id, w.leader())
	}
	return rec.History()
}

func (c *client) operate() {
	if len(*c.known) == 0 || c.chance(3) {
		c.create()
		return
	}
	// New builds are chosen more often: most faults concern them.
	id := (*c.known)[max(0, len(*c.known)-1-int(rand.New(c.rng).ExpFloat64()*float64(2*c.refs)))]
	switch c.rng.IntN(8) {
	case 0:
		c.cancel(id)
	case 1, 2:
		c.observe(id, c.node())
	case 3, 4:
		c.read(Operation{Kind: Read, ID: id, Linearizable: true})
	case 5:
		c.read(Operation{Kind: Read, ID: id, MinIndex: c.seen})
	default:
		c.read(Operation{Kind: Read, ID: id})
	}
}

func (c *client) create() {
	c.n++
	op := Operation{
		Kind: Create, Ref: fmt.Sprintf("r:%d", c.rng.IntN(c.refs)), Requester: c.name[:1] + c.name[len(c.name)-1:],
		RequestID: fmt.Sprintf("%s-%d", c.name, c.n), Force: !c.chance(4),
	}
	if c.chance(10) {
		op.RequestID = ""
	}
	timeout := time.Hour
	if c.chance(10) {
		timeout = 20 * time.Second
	}
	for range 4 {
		if c.tryCreate(op, timeout) || c.chance(4) {
			return
		}
		c.pause()
	}
}

// tryCreate reports whether the request got a response.
func (c *client) tryCreate(op Operation, timeout time.Duration) bool {
	call := c.rec.Begin(c.name, op)
	c.pause()
	n := c.node()
	res, known := c.remembered(n, op)
	if !known {
		cmd := &buildsv1.CreateBuild{
			Ref: op.Ref, BaseRef: "base", Requester: op.Requester, RequestId: op.RequestID, Force: op.Force,
			TimeoutNanos: int64(timeout), CheckedIndex: uint64(n.applied),
		}
		c.pause()
		if _, exists := c.images[op.Ref]; exists && !op.Force {
			call.End(Outcome{Exists: true, Index: uint64(n.applied)})
			return true
		}
		c.pause()
		var lost bool
		if res, lost = c.send(call, n, cmd); lost {
			return false
		}
	}
	out := Created(&imagebuilderv1.BuildImageResponse{Build: res.Build, Attached: res.Attached, Read: c.info(n)})
	call.End(out)
	*c.known = append(*c.known, out.Build.ID)
	return true
}

// remembered returns the result that a node remembers for the request id, if any.
func (c *client) remembered(n *node, op Operation) (res builds.Result, known bool) {
	if op.RequestID == "" {
		return res, false
	}
	n.store.Read(func(s *builds.State) {
		if req := s.Request(op.Requester, op.RequestID); req != nil {
			known = true
			res = builds.Result{Build: s.Build(req.BuildId).Build, Attached: req.Attached}
		}
	})
	return res, known
}

var errUnavailable = errors.New("unavailable: leadership lost")

// send proposes a command through a node. The command or its response can be lost, or the command
// can arrive long after the client gave up.
func (c *client) send(call *Call, n *node, payload proto.Message) (res builds.Result, lost bool) {
	switch c.rng.IntN(12) {
	case 0:
		call.Unknown(errUnavailable)
		return res, true
	case 1:
		call.Unknown(errUnavailable)
		c.late = append(c.late, payload)
		return res, true
	case 2:
		call.Failed(errors.New("no leader"))
		return res, true
	}
	res = c.propose(payload)
	index := len(c.log)
	c.pause()
	if c.chance(6) {
		call.Unknown(errUnavailable)
		return res, true
	}
	c.catchUp(n, index)
	return res, false
}

func (c *client) info(n *node) *imagebuilderv1.ReadInfo {
	c.seen = max(c.seen, uint64(n.applied))
	return &imagebuilderv1.ReadInfo{Index: uint64(n.applied)}
}

func (c *client) cancel(id string) {
	who := c.name[:1] + c.name[len(c.name)-1:]
	op := Operation{Kind: Cancel, ID: id, Requester: who, Operator: c.chance(5)}
	cmd := &buildsv1.StopBuild{BuildId: id, Requester: who, Reason: buildsv1.StopReason_STOP_REASON_REQUESTER}
	if op.Operator {
		cmd.Reason = buildsv1.StopReason_STOP_REASON_OPERATOR
	}
	call := c.rec.Begin(c.name, op)
	c.pause()
	n := c.node()
	res, lost := c.send(call, n, cmd)
	if lost {
		return
	}
	out := Outcome{Detached: res.Detached, Index: c.info(n).Index}
	switch {
	case errors.Is(res.Err, builds.ErrTooLate):
		out.TooLate = true
	case errors.Is(res.Err, builds.ErrNotRequester):
		out.NotRequester = true
	default:
		out.Build = BuildStateOf(res.Build)
	}
	call.End(out)
}

func (c *client) read(op Operation) {
	call := c.rec.Begin(c.name, op)
	c.pause()
	n := c.node()
	if op.Linearizable {
		index := len(c.log)
		c.pause()
		c.catchUp(n, index)
	}
	c.catchUp(n, int(op.MinIndex))
	if n.store.Build(op.ID) == nil {
		c.catchUp(n, len(c.log))
	}
	b := n.store.Build(op.ID).Build
	index := c.info(n).Index
	c.pause()
	call.End(Outcome{Build: BuildStateOf(b), Index: index})
}

// observe waits for the end of a build, for 20 pauses at most.
func (c *client) observe(id string, n *node) {
	call := c.rec.Begin(c.name, Operation{Kind: Observe, ID: id})
	for range 20 {
		if r := n.store.Build(id); r != nil && builds.Terminal(r.Build.Phase) {
			call.End(Outcome{Build: BuildStateOf(r.Build), Index: c.info(n).Index})
			return
		}
		c.pause()
	}
	call.Unknown(errors.New("deadline exceeded"))
}
