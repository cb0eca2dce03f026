package config

import (
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/azure"
	"github.com/image-builder-ha/image-builder/registry/ecr"
	"github.com/image-builder-ha/image-builder/registry/google"
)

// Registry describes the access to registries.
type Registry struct {
	InsecureHosts []string                `json:"insecureHosts" doc:"Hosts that are reached over plain HTTP, in addition to loopback names."`
	CAFile        string                  `json:"caFile" doc:"Additional CA certificates, PEM file."`
	Timeout       Duration                `json:"timeout" doc:"Time limit of one look-up, and of a transfer without progress."`
	AllowHosts    []string                `json:"allowHosts" doc:"Hosts that may have loopback or link-local addresses. The install's own repositories always may."`
	AllowLoopback bool                    `json:"allowLoopback" doc:"Allow requests to name registries on loopback. For trials only."`
	Identities    []string                `json:"identities" doc:"Clouds at whose registries the identity of this process is a credential of the install: ecr, google, azure."`
	CacheFor      Duration                `json:"cacheFor" doc:"How long the digest of a tag is used without another request to the registry. A tag that another node pushes is seen with this delay. 0: no cache."`
	Concurrency   int                     `json:"concurrency" doc:"Number of requests of this node to one host that wait for a response at a time."`
	Bandwidth     int64                   `json:"bandwidth" doc:"Bytes per second of all copies of this node together. 0: no limit."`
	Hosts         map[string]RegistryHost `json:"hosts" doc:"Mirrors, certificates and limits of single hosts, by name: {docker.io: {mirrors: [mirror.example.com/hub], caFile: f, skipVerify: false, requestsPerSecond: 0, concurrency: 0}}."`
}

// RegistryHost has the settings of one registry host.
type RegistryHost struct {
	Mirrors           []string `json:"mirrors,omitempty" doc:"host or host/path. Pulls try the mirrors first."`
	CAFile            string   `json:"caFile,omitempty" doc:"Additional CA certificates, PEM file."`
	SkipVerify        bool     `json:"skipVerify,omitempty" doc:"Accept any certificate."`
	RequestsPerSecond float64  `json:"requestsPerSecond,omitempty" doc:"Limit of the requests per second of all nodes together. Each live node has an equal share. Further requests wait."`
	Concurrency       int      `json:"concurrency,omitempty" doc:"Limit of the requests of all nodes together that wait for a response at a time. Each live node has an equal share, at least one. 0: registry.concurrency for each node."`
}

func defaultRegistry() Registry {
	return Registry{
		Timeout: Duration(30 * time.Second), Concurrency: 64,
		InsecureHosts: []string{}, AllowHosts: []string{}, Identities: []string{}, Hosts: map[string]RegistryHost{},
	}
}

// identities has the credential provider of each cloud.
var identities = map[string]func() registry.Provider{
	"ecr":    func() registry.Provider { return ecr.New() },
	"google": func() registry.Provider { return google.New() },
	"azure":  func() registry.Provider { return azure.New() },
}

// Validate returns the first error of the section. Commands that only query registries need no
// other section to be valid.
func (c Registry) Validate() error {
	for _, name := range c.Identities {
		if identities[name] == nil {
			return fmt.Errorf("registry.identities: %q is unknown; use ecr, google or azure", name)
		}
	}
	for key, v := range map[string]int64{"cacheFor": int64(c.CacheFor), "bandwidth": c.Bandwidth, "concurrency": int64(c.Concurrency)} {
		if v < 0 {
			return fmt.Errorf("registry.%s: must not be negative", key)
		}
	}
	return nil
}

// HostOptions returns the settings of single hosts in the form of the registry client.
func (c Registry) HostOptions() map[string]registry.HostOptions {
	all := map[string]registry.HostOptions{}
	for name, h := range c.Hosts {
		all[name] = registry.HostOptions(h)
	}
	return all
}
