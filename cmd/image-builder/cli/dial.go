package cli

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/tracing"
)

// clientFlags say which server to talk to, and how.
type ClientFlags struct {
	Server, ca, cert, key string
	tls                   bool
	Output                string
}

func (c *ClientFlags) Register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.Server, "server", cmp.Or(os.Getenv("IMAGE_BUILDER_SERVER"), "127.0.0.1:8080"),
		"addresses of nodes of one cluster, host:port, or unix:///path of an operator socket, with commas between; also IMAGE_BUILDER_SERVER")
	f.BoolVar(&c.tls, "tls", false, "use TLS with the system's CAs")
	f.StringVar(&c.ca, "ca", "", "use TLS with this CA, PEM file")
	f.StringVar(&c.cert, "cert", "", "client certificate, PEM file")
	f.StringVar(&c.key, "key", "", "its key, PEM file")
	f.StringVarP(&c.Output, "output", "o", "table", "table, json or yaml")
}

// dial answers a client. It does not wait for the server.
func (c *ClientFlags) Dial() (*client.Client, func(), error) {
	pool, done, err := c.DialConn()
	if err != nil {
		return nil, nil, err
	}
	return client.Over(pool), done, nil
}

// patience is how long a command goes on trying while no server answers.
const patience = 5 * time.Second

// dialConn answers connections. It does not wait for the servers.
func (c *ClientFlags) DialConn() (*client.Pool, func(), error) {
	if slices.Contains(strings.Split(c.Server, ","), "") {
		return nil, nil, ExitWith(ExitUsage, fmt.Errorf("--server %q lacks an address: write host:port, several with commas between", c.Server))
	}
	if c.Output != "table" && c.Output != "json" && c.Output != "yaml" {
		return nil, nil, ExitWith(ExitUsage, fmt.Errorf("--output %q is unknown; use table, json or yaml", c.Output))
	}
	tls, err := c.TLSConfig()
	if err != nil {
		return nil, nil, err
	}
	o := client.Options{
		Servers: strings.Split(c.Server, ","), Patience: patience, TLS: tls,
		Dial: tracing.HandOver(os.Getenv("TRACEPARENT")), // of the job that runs the command
	}
	pool, err := client.NewPool(o)
	if err != nil {
		return nil, nil, ExitWith(ExitUsage, fmt.Errorf("--server: %w", err))
	}
	return pool, func() { _ = pool.Close() }, nil
}

// tlsClient answers how to encrypt connections, nil for not at all.
func (c *ClientFlags) TLSConfig() (*tls.Config, error) {
	if (c.cert == "") != (c.key == "") {
		return nil, ExitWith(ExitUsage, errors.New("--cert and --key belong together"))
	}
	if !c.tls && c.ca == "" && c.cert == "" {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return nil, ExitWith(ExitUsage, fmt.Errorf("--ca: %w", err))
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, ExitWith(ExitUsage, fmt.Errorf("--ca: %s holds no certificate", c.ca))
		}
	}
	if c.cert != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, ExitWith(ExitUsage, fmt.Errorf("--cert: %w", err))
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// explainBuild is explain for a call about one build, which the message names.
func (c *ClientFlags) ExplainBuild(name string, err error) error {
	if status.Code(err) == codes.NotFound {
		err = status.Errorf(codes.NotFound, "%s: %s ('image-builder list' shows the builds that are kept)", name, status.Convert(err).Message())
	}
	return c.Explain(err)
}

// explain turns an error of the service into one for a person, with the exit
// status that fits.
func (c *ClientFlags) Explain(err error) error {
	if _, _, already := ExitStatus(err); err == nil || already {
		return err
	}
	st := status.Convert(err)
	switch st.Code() {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.NotFound, codes.Unauthenticated, codes.OutOfRange:
		return ExitWith(ExitUsage, errors.New(st.Message()))
	case codes.Canceled:
		return ExitWith(ExitInterrupted, errors.New("interrupted"))
	case codes.Unavailable, codes.DeadlineExceeded:
		if !strings.HasPrefix(st.Message(), "connection error") && !strings.HasPrefix(st.Message(), "name resolver error") {
			return ExitWith(ExitUnavailable, errors.New(st.Message()))
		}
		return ExitWith(ExitUnavailable, fmt.Errorf("%s does not answer now: %s. Is a node running there? Give another with --server", c.Server, st.Message()))
	case codes.Unimplemented:
		return ExitWith(ExitUnavailable, fmt.Errorf("%s is no image builder, or an older one: %s", c.Server, st.Message()))
	}
	return ExitWith(ExitUnavailable, errors.New(st.Message()))
}
