package main

import (
	"context"
	"log/slog"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/node"
	"github.com/image-builder-ha/image-builder/registry"
)

// registryHelp is the help text of commands that connect to registries themselves.
const registryHelp = `
For this the command connects to the registry itself, with the configuration and the
credentials of the install: run it where a node runs.`

// withRegistry calls use with the registry client that a node with these configuration files has.
// kept, if it is not nil, returns the look-up of cached references for a configuration.
func withRegistry(ctx context.Context, files []string, kept func(config.Config) func(string) (registry.Kept, bool), use func(context.Context, *registry.Client) error) error {
	cfg, _, err := config.Load(files)
	if err == nil {
		cfg.Complete()
		err = cfg.Registry.Validate()
	}
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, err)
	}
	o := node.RegistryOptions(cfg, slog.New(slog.DiscardHandler), nil)
	if kept != nil {
		o.Kept = kept(cfg)
	}
	c, err := registry.New(o)
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, err)
	}
	defer c.Close()
	return use(ctx, c)
}
