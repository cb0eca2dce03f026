package wsmanager

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// steady is how long a subscription must stand, where nothing else is heard of
// ws-manager, until that counts as an answer.
const steady = 5 * time.Second

// reach remembers whether ws-manager answered when it was last asked. It does
// not follow the connection, which changes its state with every attempt.
type reach struct{ away atomic.Bool }

func (r *reach) note(err error) {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		r.away.Store(true)
	case codes.Canceled, codes.Unknown:
		// It was our wish to end the call, or the call never began.
	default:
		r.away.Store(false)
	}
}

// unary notes how every call ends whose caller has waited for it.
func (r *reach) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if context.Cause(ctx) == nil || status.Code(err) == codes.DeadlineExceeded {
		r.note(err)
	}
	return err
}

// Trouble answers why the workspace manager cannot be used now, or nil. Builds
// wait for it meanwhile.
func (r *Runtime) Trouble() error {
	if r.reach.away.Load() {
		return fmt.Errorf("the workspace manager at %s does not answer: builds that need it wait", r.opts.Address)
	}
	return nil
}
