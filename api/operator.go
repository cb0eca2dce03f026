package api

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type operatorKey struct{}

// WithOperator marks a call as a call of an operator. The server marks calls on the unix socket of
// the node, and calls with a client certificate of the operator role.
func WithOperator(ctx context.Context) context.Context {
	return context.WithValue(ctx, operatorKey{}, true)
}

// requireOperator returns PERMISSION_DENIED if the call is not marked as a call of an operator.
// action begins the error message.
func requireOperator(ctx context.Context, action string) error {
	if op, _ := ctx.Value(operatorKey{}).(bool); op {
		return nil
	}
	return status.Errorf(codes.PermissionDenied, "%s is for operators: call it on the node's unix socket, or with a client certificate of the operator role", action)
}
