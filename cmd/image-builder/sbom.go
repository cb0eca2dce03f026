package main

import (
	"encoding/json"
	"errors"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/internal/sbom"
)

func newSBOMCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sbom", Short: "Print the modules of this binary", Args: cobra.NoArgs,
		Long: `Prints the modules that this binary was compiled from as a software bill of materials: SPDX 2.3 in
JSON. The Go toolchain has recorded them in the binary. The output depends on the binary only.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return cli.ExitWith(cli.ExitUnavailable, errors.New("this binary has no record of its modules"))
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			e.SetEscapeHTML(false)
			return e.Encode(sbom.Of(info))
		},
	}
}
