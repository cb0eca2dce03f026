package api

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type operatorKey struct{}

// WithOperator marks a call as an operator's. The server does so for calls on
// the node's unix socket, and for those with a client certificate that names the
// operator role.
func WithOperator(ctx context.Context) context.Context {
	return context.WithValue(ctx, operatorKey{}, true)
}

func requireOperator(ctx context.Context, what string) error {
	if op, _ := ctx.Value(operatorKey{}).(bool); op {
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "%s is for operators: call it on the node's unix socket, or with a client certificate of the operator role", what)
}
