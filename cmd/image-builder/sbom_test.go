package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/image-builder-ha/image-builder/internal/sbom"
)

// Test_SBOM_OfThisBinary checks that the output of the command has a module of this binary.
func Test_SBOM_OfThisBinary(t *testing.T) {
	var out bytes.Buffer
	root := newRootCommand()
	root.SetOut(&out)
	root.SetArgs([]string{"sbom"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	var d sbom.Document
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	for _, p := range d.Packages {
		if p.Name == "github.com/hashicorp/raft" && p.Version != "" {
			return
		}
	}
	t.Errorf("raft is missing: %s", out.String())
}
