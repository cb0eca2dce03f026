package dev

import "github.com/spf13/cobra"

// options are the flags of `dev`.
type options struct {
	dataDir         string
	grpcAddress     string
	httpAddress     string
	registryAddress string
	metricsAddress  string
	healthAddress   string
	pprofAddress    string
	peerAddress     string
	gossipAddress   string
	nodes           int
	buildkitd       string
	example         string
	exit            bool
	verbose         bool
}

// register adds the flags to the command.
func (o *options) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.dataDir, "data-dir", ".run", "directory of state, logs and images")
	f.IntVar(&o.nodes, "nodes", 3, "number of nodes: 1, or 3 and more")
	f.StringVar(&o.peerAddress, "peer-address", "127.0.0.1:7800", "address of the peer port")
	f.StringVar(&o.gossipAddress, "gossip-address", "127.0.0.1:7900", "address of gossip")
	f.StringVar(&o.grpcAddress, "grpc-address", "127.0.0.1:8080", "address of the API")
	f.StringVar(&o.httpAddress, "http-address", "127.0.0.1:8090", "address of the web page")
	f.StringVar(&o.registryAddress, "registry-address", "127.0.0.1:15000", "address of the registry")
	f.StringVar(&o.metricsAddress, "metrics-address", "127.0.0.1:9500", "address of the metrics")
	f.StringVar(&o.healthAddress, "health-address", "127.0.0.1:9501", "address of /ready and /live")
	f.StringVar(&o.pprofAddress, "pprof-address", "127.0.0.1:6060", "address of pprof")
	f.StringVar(&o.buildkitd, "buildkitd", "bin/buildkitd", "BuildKit daemon to start unless BUILDKIT_HOST names one; without a daemon Dockerfiles cannot be built")
	f.StringVar(&o.example, "example", "examples/hello", "directory to build")
	f.BoolVar(&o.exit, "exit", false, "end after the builds; the exit status is 0 only if the images are in the registry")
	f.BoolVar(&o.verbose, "verbose", false, "show the logs of the registry and the nodes")
}
