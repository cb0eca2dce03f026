package peer

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// maxAppendBytes limits one message of appends.
const maxAppendBytes = 32 << 20

// transport sends appends to the peer ports of other nodes.
type transport struct {
	conn func(node, storeID string) (grpc.ClientConnInterface, error)
}

var _ logs.Transport = transport{}

// Append implements logs.Transport.
func (t transport) Append(ctx context.Context, to logs.Copy, batch []logs.Append) ([]logs.Ack, error) {
	conn, err := t.conn(to.Node, to.StoreID)
	if err != nil {
		return nil, err
	}
	req := &buildsv1.AppendLogsRequest{}
	for _, a := range batch {
		req.Appends = append(req.Appends, appendToProto(a))
	}
	res, err := buildsv1.NewNodeLogsClient(conn).AppendLogs(ctx, req, grpc.MaxCallSendMsgSize(maxAppendBytes))
	if err != nil {
		return nil, err
	}
	if len(res.GetAcks()) != len(batch) {
		return nil, fmt.Errorf("node %s returned %d acks for %d appends", to.Node, len(res.GetAcks()), len(batch))
	}
	acks := make([]logs.Ack, len(batch))
	for i, m := range res.GetAcks() {
		acks[i] = ackFromProto(m)
	}
	return acks, nil
}
