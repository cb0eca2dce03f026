package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// clientFlags say which server to talk to, and how.
type clientFlags struct {
	server, ca, cert, key string
	tls                   bool
	output                string
}

func (c *clientFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.server, "server", cmp.Or(os.Getenv("IMAGE_BUILDER_SERVER"), "127.0.0.1:8080"),
		"address of a node: host:port, or unix:///path of its operator socket; also IMAGE_BUILDER_SERVER")
	f.BoolVar(&c.tls, "tls", false, "use TLS with the system's CAs")
	f.StringVar(&c.ca, "ca", "", "use TLS with this CA, PEM file")
	f.StringVar(&c.cert, "cert", "", "client certificate, PEM file")
	f.StringVar(&c.key, "key", "", "its key, PEM file")
	f.StringVarP(&c.output, "output", "o", "table", "table, json or yaml")
}

// dial answers a client. It does not wait for the server.
func (c *clientFlags) dial() (imagebuilderv1.ImageBuilderClient, func(), error) {
	conn, done, err := c.dialConn()
	if err != nil {
		return nil, nil, err
	}
	return imagebuilderv1.NewImageBuilderClient(conn), done, nil
}

// dialConn answers a connection. It does not wait for the server.
func (c *clientFlags) dialConn() (*grpc.ClientConn, func(), error) {
	if c.output != "table" && c.output != "json" && c.output != "yaml" {
		return nil, nil, exitError{exitUsage, fmt.Errorf("--output %q is unknown; use table, json or yaml", c.output)}
	}
	creds := insecure.NewCredentials()
	if c.tls || c.ca != "" || c.cert != "" {
		conf := &tls.Config{MinVersion: tls.VersionTLS12}
		if c.ca != "" {
			pem, err := os.ReadFile(c.ca)
			if err != nil {
				return nil, nil, exitError{exitUsage, fmt.Errorf("--ca: %w", err)}
			}
			conf.RootCAs = x509.NewCertPool()
			if !conf.RootCAs.AppendCertsFromPEM(pem) {
				return nil, nil, exitError{exitUsage, fmt.Errorf("--ca: %s holds no certificate", c.ca)}
			}
		}
		if c.cert != "" {
			pair, err := tls.LoadX509KeyPair(c.cert, c.key)
			if err != nil {
				return nil, nil, exitError{exitUsage, fmt.Errorf("--cert: %w", err)}
			}
			conf.Certificates = []tls.Certificate{pair}
		}
		creds = credentials.NewTLS(conf)
	}
	conn, err := grpc.NewClient(c.server, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, nil, exitError{exitUsage, fmt.Errorf("--server %q is no address", c.server)}
	}
	return conn, func() { _ = conn.Close() }, nil
}

// explain turns an error of the service into one for a person, with the exit
// status that fits.
func (c *clientFlags) explain(err error) error {
	var already exitError
	if err == nil || errors.As(err, &already) {
		return err
	}
	st := status.Convert(err)
	switch st.Code() {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.NotFound, codes.Unauthenticated, codes.OutOfRange:
		return exitError{exitUsage, errors.New(st.Message())}
	case codes.Canceled:
		return exitError{exitInterrupted, errors.New("interrupted")}
	case codes.Unavailable, codes.DeadlineExceeded:
		if !strings.HasPrefix(st.Message(), "connection error") && !strings.HasPrefix(st.Message(), "name resolver error") {
			return exitError{exitUnavailable, errors.New(st.Message())}
		}
		return exitError{exitUnavailable, fmt.Errorf("%s does not answer now: %s. Is a node running there? Give another with --server", c.server, st.Message())}
	case codes.Unimplemented:
		return exitError{exitUnavailable, fmt.Errorf("%s is no image builder, or an older one: %s", c.server, st.Message())}
	}
	return exitError{exitUnavailable, errors.New(st.Message())}
}

// retry calls f again while the service is unavailable, for a while. f must be
// safe to repeat.
func retry[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	wait := 100 * time.Millisecond
	for try := 0; ; try++ {
		v, err := f(ctx)
		if status.Code(err) != codes.Unavailable || try == 5 || !pause(ctx, wait) {
			return v, err
		}
		wait *= 2
	}
}
