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

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"

	"github.com/spf13/cobra"
)

func newSBOMCommand() *cobra.Command {
	return &cobra.Command{
		Use: "sbom", Short: "Print what this binary is made of", Args: cobra.NoArgs,
		Long: `Prints the modules that this binary was compiled from, which the Go toolchain has written into it, as a
software bill of materials: SPDX 2.3 in JSON. The same binary always prints the same.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return cli.ExitWith(cli.ExitUnavailable, errors.New("this binary does not know what it was compiled from"))
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			e.SetEscapeHTML(false)
			return e.Encode(sbomOf(info))
		},
	}
}

// The parts of SPDX 2.3 that are used; https://spdx.github.io/spdx-spec/v2.3.
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

type spdxPackage struct {
	ID       string    `json:"SPDXID"`
	Name     string    `json:"name"`
	Version  string    `json:"versionInfo,omitempty"`
	Location string    `json:"downloadLocation"`
	Analyzed bool      `json:"filesAnalyzed"`
	Refs     []spdxRef `json:"externalRefs"`
}

// spdxRef is a package URL, by which scanners know a module.
type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// sbomOf words build information: pure.
func sbomOf(info *debug.BuildInfo) *spdxDocument {
	d := &spdxDocument{Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: info.Main.Path}
	d.Creation.Created, d.Creation.Creators = "1970-01-01T00:00:00Z", []string{"Tool: image-builder"}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			d.Creation.Created = s.Value
		}
	}
	d.Namespace = fmt.Sprintf("https://%s/sbom/%x", info.Main.Path, sha256.Sum256([]byte(info.String())))
	main := d.add(&info.Main)
	d.relate(d.ID, "DESCRIBES", main)
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		d.relate(main, "DEPENDS_ON", d.add(m))
	}
	d.relate(main, "DEPENDS_ON", d.add(&debug.Module{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}))
	return d
}

// noID are the bytes that an SPDX id cannot have.
var noID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// add adds a module and answers its id.
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

func (d *spdxDocument) relate(from, how, to string) {
	d.Relationships = append(d.Relationships, spdxRelationship{from, how, to})
}
