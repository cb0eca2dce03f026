package wsmanager

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// steadyAfter is how long a subscription must stay open to prove, without any other response, that
// ws-manager is available.
const steadyAfter = 5 * time.Second

// reachability holds whether ws-manager responded to the last call. It does not use the state of
// the connection, which changes with every attempt to connect.
type reachability struct{ unavailable atomic.Bool }

func (r *reachability) record(err error) {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		r.unavailable.Store(true)
	case codes.Canceled, codes.Unknown:
		// The caller ended the call, or the call never began.
	default:
		r.unavailable.Store(false)
	}
}

// unary records the result of every call, unless its caller has ended it.
func (r *reachability) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if context.Cause(ctx) == nil || status.Code(err) == codes.DeadlineExceeded {
		r.record(err)
	}
	return err
}
