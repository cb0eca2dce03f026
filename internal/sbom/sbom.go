// Package sbom makes the software bill of materials of a Go binary from its build information. The
// same build information always gives the same document. It does not read binaries or networks.
package sbom

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

// Document has the fields of an SPDX 2.3 document that are used; see
// https://spdx.github.io/spdx-spec/v2.3.
type Document struct {
	Version   string `json:"spdxVersion"`
	License   string `json:"dataLicense"` // of this document
	ID        string `json:"SPDXID"`
	Name      string `json:"name"`
	Namespace string `json:"documentNamespace"`
	Creation  struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	} `json:"creationInfo"`
	Packages      []Package      `json:"packages"`
	Relationships []Relationship `json:"relationships"`
}

// Package is one module.
type Package struct {
	ID       string `json:"SPDXID"`
	Name     string `json:"name"`
	Version  string `json:"versionInfo,omitempty"`
	Location string `json:"downloadLocation"`
	Analyzed bool   `json:"filesAnalyzed"`
	Refs     []Ref  `json:"externalRefs"`
}

// Ref is the package URL of a module. Scanners identify modules by it.
type Ref struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

// Relationship is one edge of the dependency graph.
type Relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// Of returns the document for the build information of a binary.
func Of(info *debug.BuildInfo) *Document {
	d := &Document{Version: "SPDX-2.3", License: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: info.Main.Path}
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
func (d *Document) add(m *debug.Module) string {
	id := "SPDXRef-" + noID.ReplaceAllString(m.Path, "-")
	for n, taken := 1, id; slices.ContainsFunc(d.Packages, func(p Package) bool { return p.ID == id }); n++ {
		id = fmt.Sprint(taken, "-", n)
	}
	url := "pkg:golang/" + m.Path
	if m.Version != "" {
		url += "@" + strings.ReplaceAll(m.Version, "+", "%2B")
	}
	d.Packages = append(d.Packages, Package{
		ID: id, Name: m.Path, Version: m.Version, Location: "NOASSERTION",
		Refs: []Ref{{"PACKAGE-MANAGER", "purl", url}},
	})
	return id
}

// relate adds a relationship between two ids.
func (d *Document) relate(from, how, to string) {
	d.Relationships = append(d.Relationships, Relationship{from, how, to})
}
