package config

import (
	"net"
	"os"

	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
)

// Complete sets the keys that are empty and follow from other keys, from the host name or from the
// pod of this process. A second call changes nothing.
func (c *Config) Complete() {
	if c.Name == "" {
		c.Name, _ = os.Hostname()
	}
	if _, port, err := net.SplitHostPort(c.Cluster.Address); err == nil && c.PeerAddress == "" {
		host, _ := os.Hostname()
		c.PeerAddress = net.JoinHostPort(host, port)
	}
	if c.OperatorSocket == "" {
		c.OperatorSocket = c.DataDir + "/operator.sock"
	}
	c.HTTP.UI = c.webPage() // before publicURL is set
	if c.HTTP.Address == "" && c.Orchestrator.WSManager.Address != "" {
		c.HTTP.Address = defaultHTTP
	}
	if _, port, err := net.SplitHostPort(c.HTTP.Listens()); err == nil && c.HTTP.PublicURL == "" {
		host, _, err := net.SplitHostPort(c.PeerAddress)
		if err != nil {
			host, _ = os.Hostname()
		}
		c.HTTP.PublicURL = "http://" + net.JoinHostPort(host, port)
		if c.HTTP.TLS.CertPath != "" {
			c.HTTP.PublicURL = "https://" + net.JoinHostPort(host, port)
		}
	}
	c.Kubernetes.complete(c.Cluster.Name)
	if k := &c.Cluster.Kubernetes; (k.Service != "" || k.Label) && k.Namespace == "" {
		k.Namespace = kubernetes.OwnNamespace()
	}
	if c.Runtimes.Dockerfile == "" {
		switch {
		case len(c.BuildKit.Addresses) > 0:
			c.Runtimes.Dockerfile = buildkit.Name
		case c.Orchestrator.WSManager.Address != "":
			c.Runtimes.Dockerfile = wsmanager.Name
		}
	}
}
