// Package cli has what the commands of image-builder share: the flags that name the servers, exit
// statuses and their errors, and the output formats. It has no command.
package cli

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/tracing"
)

// Flags are the flags of all commands that call a node.
type Flags struct {
	Server string // addresses with commas between
	Output string // table, json or yaml
	// Operator makes a call fail at once if no server reaches a leader: an operator has to act then.
	Operator bool

	ca, cert, key string
	tls           bool

	stderr func() io.Writer // of the command
	notice sync.Once        // that a call waits for a server
}

// Register adds the flags to a command.
func (f *Flags) Register(cmd *cobra.Command) {
	f.stderr = cmd.ErrOrStderr
	s := cmd.Flags()
	s.StringVar(&f.Server, "server", cmp.Or(os.Getenv("IMAGE_BUILDER_SERVER"), "127.0.0.1:8080"),
		"addresses of nodes of one cluster, with commas between: host:port, or unix:///path of an operator socket; also IMAGE_BUILDER_SERVER")
	s.BoolVar(&f.tls, "tls", false, "use TLS with the CAs of the system")
	s.StringVar(&f.ca, "ca", "", "use TLS with this CA, PEM file")
	s.StringVar(&f.cert, "cert", "", "client certificate, PEM file")
	s.StringVar(&f.key, "key", "", "key of the client certificate, PEM file")
	s.StringVarP(&f.Output, "output", "o", "table", "output format: table, json or yaml")
}

// retryTimeout is how long a call is retried while no server is available.
const retryTimeout = 5 * time.Second

// Dial returns connections to the servers. It does not wait for them. The caller closes the pool.
func (f *Flags) Dial() (*client.Pool, error) {
	if slices.Contains(strings.Split(f.Server, ","), "") {
		return nil, ExitWith(ExitUsage, fmt.Errorf("--server %q lacks an address: write host:port, several with commas between", f.Server))
	}
	if f.Output != "table" && f.Output != "json" && f.Output != "yaml" {
		return nil, ExitWith(ExitUsage, fmt.Errorf("--output %q is unknown; use table, json or yaml", f.Output))
	}
	conf, err := f.TLS()
	if err != nil {
		return nil, err
	}
	o := client.Options{
		Servers: strings.Split(f.Server, ","), Patience: retryTimeout, TLS: conf, Waiting: f.waits,
		Dial: tracing.HandOver(os.Getenv("TRACEPARENT")), // set by a CI job that runs the command
	}
	// An address that does not respond at all takes no longer than one that refuses connections.
	o.Dial = append(o.Dial, grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: retryTimeout}))
	if f.Operator {
		o.Final = func(err error) bool { return strings.Contains(status.Convert(err).Message(), cluster.UnreachedText) }
	}
	pool, err := client.NewPool(o)
	if err != nil {
		return nil, ExitWith(ExitUsage, fmt.Errorf("--server: %w", err))
	}
	return pool, nil
}

// waits prints once, to standard error, that a call waits for a server, and how long. err is the last
// error of a server, or nil.
func (f *Flags) waits(err error) {
	if f.stderr == nil {
		return // the flags are those of no command
	}
	f.notice.Do(func() {
		st := status.Convert(err)
		if err == nil || isConnectionError(st) {
			fmt.Fprintf(f.stderr(), "image-builder: connecting to %s, for up to %s\n", f.Server, retryTimeout)
			return
		}
		fmt.Fprintf(f.stderr(), "image-builder: %s is unavailable, trying again for up to %s: %s\n", f.Server, retryTimeout, st.Message())
	})
}

// TLS returns the TLS configuration of the connections, or nil for plain text.
func (f *Flags) TLS() (*tls.Config, error) {
	if (f.cert == "") != (f.key == "") {
		return nil, ExitWith(ExitUsage, errors.New("--cert and --key must be used together"))
	}
	if !f.tls && f.ca == "" && f.cert == "" {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, ExitWith(ExitUsage, fmt.Errorf("--ca: %w", err))
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, ExitWith(ExitUsage, fmt.Errorf("--ca: %s contains no certificate", f.ca))
		}
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, ExitWith(ExitUsage, fmt.Errorf("--cert: %w", err))
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// isConnectionError reports whether a call failed because there was no connection to a server.
func isConnectionError(st *status.Status) bool {
	return strings.HasPrefix(st.Message(), "connection error") || strings.HasPrefix(st.Message(), "name resolver error")
}
