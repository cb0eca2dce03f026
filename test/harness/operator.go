package harness

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Socket returns the address of the node's unix socket in the form that the command line takes.
func (n *Node) Socket() string { return "unix://" + filepath.Join(n.Dir, "op.sock") }

// Operator returns a client of the node's unix socket.
func (n *Node) Operator() imagebuilderv1.ClusterClient {
	n.t.Helper()
	return imagebuilderv1.NewClusterClient(n.OperatorConn())
}

// OperatorConn returns a connection to the node's unix socket.
func (n *Node) OperatorConn() *grpc.ClientConn {
	n.t.Helper()
	conn, err := grpc.NewClient(n.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// Members returns the members of the cluster as the node knows them. With stale the node need not
// have a leader.
func (n *Node) Members(ctx context.Context, stale bool) (*imagebuilderv1.MembersResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return n.Operator().Members(ctx, &imagebuilderv1.MembersRequest{Stale: stale})
}

// Hurt replaces the active faults of a node. The node must be compiled with the tag faults.
func (n *Node) Hurt(state map[string]any) {
	n.t.Helper()
	raw, err := json.Marshal(state)
	if err != nil {
		n.t.Fatal(err)
	}
	res, err := n.post("http://"+n.Pprof+"/faults", string(raw))
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		n.t.Fatalf("the node refuses the faults: %s", res.Status)
	}
}

// post sends a POST request from the host of the node.
func (n *Node) post(url, body string) (*http.Response, error) {
	tr := &http.Transport{DialContext: n.dial, DisableKeepAlives: true}
	return (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Post(url, "application/json", strings.NewReader(body))
}
