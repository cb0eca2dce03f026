package dockerfile

import (
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
)

// scannerScript is the smallest program that meets BuildKit's protocol for scanners.
const scannerScript = `echo '{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{"spdxVersion":"SPDX-2.3"}}' > $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json`

// attestationsOf returns the predicate types of the attestations of an image.
func attestationsOf(t *testing.T, ref string) (types []string) {
	t.Helper()
	named, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Index(named)
	if err != nil {
		return nil
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range m.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
			continue
		}
		img, err := index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range manifest.Layers {
			types = append(types, l.Annotations["in-toto.io/predicate-type"])
		}
	}
	slices.Sort(types)
	return types
}

// Test_Attestations builds an image with attestations by BuildKit and by a scanner. Its reference
// has them, and it is another image than the one without attestations.
func Test_Attestations(t *testing.T) {
	w := buildkittest.Start(t, nil)
	scanner, err := mutate.Config(registrytest.BusyboxImage(t, "echo"), v1.Config{Env: []string{"PATH=/bin"}, Cmd: []string{"/bin/sh", "-c", scannerScript}})
	if err != nil {
		t.Fatal(err)
	}
	w.Registry.Push(t, "tools/scanner:1", scanner)
	dir := w.Context(t, "FROM base\nRUN echo attested > /it\n", nil)
	plain := harness.LastLine(harness.MustCLI(t, w.GRPC, "build", dir))
	attested := harness.LastLine(harness.MustCLI(t, w.GRPC, "build", dir, "--provenance", "max", "--sbom="+w.Registry.Addr+"/tools/scanner:1"))
	if plain == attested || len(attestationsOf(t, plain)) > 0 {
		t.Errorf("%s without attestations, %s with", plain, attested)
	}
	got := attestationsOf(t, attested)
	if len(got) != 2 || got[0] != "https://slsa.dev/provenance/v1" && got[0] != "https://slsa.dev/provenance/v0.2" || got[1] != "https://spdx.dev/Document" {
		t.Errorf("%s is attested by %v", attested, got)
	}
	if text := harness.FileAt(t, attested, "it"); text != "attested\n" {
		t.Errorf("the image holds %q", text)
	}
	if _, errOut, status := harness.CLI(t, w.GRPC, "build", dir, "--provenance", "much"); status != 2 {
		t.Errorf("an unknown mode: %d %s", status, errOut)
	}
	if _, errOut, status := harness.CLI(t, w.GRPC, "build", dir, "--sbom=x,mode=y"); status != 2 {
		t.Errorf("a scanner with options: %d %s", status, errOut)
	}
}
