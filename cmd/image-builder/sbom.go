package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
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
			return e.Encode(sbomOf(info))
		},
	}
}

// spdxDocument has the fields of SPDX 2.3 that are used; see https://spdx.github.io/spdx-spec/v2.3.
type spdxDocument struct {
	Version   string `json:"spdxVersion"`
	License   string `json:"dataLicense"` // of the document
	ID        string `json:"SPDXID"`
	Name      string `json:"name"`
	Namespace string `json:"documentNamespace"`
	Creation  struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	} `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

// spdxPackage is one module.
type spdxPackage struct {
	ID       string    `json:"SPDXID"`
	Name     string    `json:"name"`
	Version  string    `json:"versionInfo,omitempty"`
	Location string    `json:"downloadLocation"`
	Analyzed bool      `json:"filesAnalyzed"`
	Refs     []spdxRef `json:"externalRefs"`
}

// spdxRef is the package URL of a module. Scanners identify modules by it.
type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

// spdxRelationship is one edge of the dependency graph.
type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// sbomOf returns the document for the build information of a binary.
func sbomOf(info *debug.BuildInfo) *spdxDocument {
	d := &spdxDocument{Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: info.Main.Path}
	d.Creation.Created, d.Creation.Creators = "1970-01-01T00:00:00Z", []string{"Tool: image-builder"}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			d.Creation.Created = s.Value
		}
	}
	d.Namespace = fmt.Sprintf("https://%s/sbom/%x", info.Main.Path, sha256.Sum256([]byte(info.String())))
	root := d.add(&info.Main)
	d.relate(d.ID, "DESCRIBES", root)
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		d.relate(root, "DEPENDS_ON", d.add(m))
	}
	d.relate(root, "DEPENDS_ON", d.add(&debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}))
	return d
}

// noID matches the characters that an SPDX id cannot have.
var noID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// add adds a module and returns its id.
func (d *spdxDocument) add(m *debug.Module) string {
	id := "SPDXRef-" + noID.ReplaceAllString(m.Path, "-")
	for n, taken := 1, id; slices.ContainsFunc(d.Packages, func(p spdxPackage) bool { return p.ID == id }); n++ {
		id = fmt.Sprint(taken, "-", n)
	}
	url := "pkg:golang/" + m.Path
	if m.Version != "" {
		url += "@" + strings.ReplaceAll(m.Version, "+", "%2B")
	}
	d.Packages = append(d.Packages, spdxPackage{
		ID: id, Name: m.Path, Version: m.Version, Location: "NOASSERTION",
		Refs: []spdxRef{{"PACKAGE-MANAGER", "purl", url}},
	})
	return id
}

// relate adds a relationship between two ids.
func (d *spdxDocument) relate(from, how, to string) {
	d.Relationships = append(d.Relationships, spdxRelationship{from, how, to})
}
