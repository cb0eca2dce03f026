package config

import (
	"fmt"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/azure"
	"github.com/image-builder-ha/image-builder/registry/ecr"
	"github.com/image-builder-ha/image-builder/registry/google"
)

// RegistryConfig says how registries are spoken to.
type RegistryConfig struct {
	InsecureHosts []string                      `json:"insecureHosts" doc:"Hosts spoken to by plain HTTP, beside loopback names."`
	CAFile        string                        `json:"caFile" doc:"Further CA certificates, PEM."`
	Timeout       Duration                      `json:"timeout" doc:"Limit of one look-up, and of standstill in a transfer."`
	AllowHosts    []string                      `json:"allowHosts" doc:"Hosts that may have loopback or link-local addresses. The install's own repositories always may."`
	AllowLoopback bool                          `json:"allowLoopback" doc:"Let requests name registries on loopback. For trying it out only."`
	Identities    []string                      `json:"identities" doc:"Clouds at whose registries the identity of this process is a credential of the install: ecr, google, azure."`
	CacheFor      Duration                      `json:"cacheFor" doc:"How long the digest of a tag is taken for true without asking again; what other nodes push is seen that late. 0 for not at all."`
	Concurrency   int                           `json:"concurrency" doc:"Requests of this node to one host that wait for an answer at a time."`
	Bandwidth     int64                         `json:"bandwidth" doc:"Bytes that all copies of this node transfer in a second; 0 for no limit."`
	Hosts         map[string]RegistryHostConfig `json:"hosts" doc:"Mirrors, certificates and limits of single hosts, by name: {docker.io: {mirrors: [mirror.example.com/hub], caFile: f, skipVerify: false, requestsPerSecond: 0, concurrency: 0}}."`
}

// RegistryHostConfig is about one registry host.
type RegistryHostConfig struct {
	Mirrors           []string `json:"mirrors,omitempty" doc:"host or host/path, asked first for what is pulled."`
	CAFile            string   `json:"caFile,omitempty" doc:"Further CA certificates, PEM."`
	SkipVerify        bool     `json:"skipVerify,omitempty" doc:"Take any certificate."`
	RequestsPerSecond float64  `json:"requestsPerSecond,omitempty" doc:"What all nodes of the cluster together ask at most, each live one an equal part; more waits."`
	Concurrency       int      `json:"concurrency,omitempty" doc:"Requests of all nodes together that wait for an answer at a time, each live one an equal part, at least one. 0: registry.concurrency for each node."`
}

func defaultRegistry() RegistryConfig {
	return RegistryConfig{
		Timeout: Duration(30 * time.Second), Concurrency: 64,
		InsecureHosts: []string{}, AllowHosts: []string{}, Identities: []string{}, Hosts: map[string]RegistryHostConfig{},
	}
}

// identities are the clouds that a process may have an identity at.
var Identities = map[string]func() registry.Provider{
	"ecr":    func() registry.Provider { return ecr.New() },
	"google": func() registry.Provider { return google.New() },
	"azure":  func() registry.Provider { return azure.New() },
}

func (c Config) identities() []string {
	names := c.Registry.Identities
	if c.Orchestrator.EnableAdditionalECRAuth && !slices.Contains(names, "ecr") {
		names = append(slices.Clone(names), "ecr")
	}
	return names
}

func (c RegistryConfig) Validate() error {
	for _, name := range c.Identities {
		if Identities[name] == nil {
			return fmt.Errorf("registry.identities: %q is none of ecr, google, azure", name)
		}
	}
	for key, v := range map[string]int64{"cacheFor": int64(c.CacheFor), "bandwidth": c.Bandwidth, "concurrency": int64(c.Concurrency)} {
		if v < 0 {
			return fmt.Errorf("registry.%s: must not be negative", key)
		}
	}
	return nil
}

// providers are the credentials of this process' identities.
func (c Config) Providers() (all []registry.Provider) {
	for _, name := range c.identities() {
		all = append(all, Identities[name]())
	}
	return all
}

// HostOptions returns the options of single hosts in the form that the registry client takes.
func (c RegistryConfig) HostOptions() map[string]registry.HostOptions {
	all := map[string]registry.HostOptions{}
	for name, h := range c.Hosts {
		all[name] = registry.HostOptions(h)
	}
	return all
}
