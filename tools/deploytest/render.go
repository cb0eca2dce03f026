package deploytest

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

// Root is the folder deploy, from this package.
const Root = "../../deploy"

// Release is what a rendering needs to know beside values.
type Release struct {
	Name, Namespace string
	// Upgrade: the release is there already.
	Upgrade bool
}

// Render answers the manifests of the chart, by template, with the values
// files and then the overrides over its own values.
func Render(chartDir string, r Release, files []string, over map[string]any) (map[string]string, error) {
	c, err := loader.Load(chartDir)
	if err != nil {
		return nil, fmt.Errorf("load the chart: %w", err)
	}
	values := map[string]any{}
	for _, f := range files {
		v, err := chartutil.ReadValuesFile(f)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", filepath.Base(f), err)
		}
		values = chartutil.CoalesceTables(v.AsMap(), values)
	}
	values = chartutil.CoalesceTables(maps.Clone(over), values)
	o := chartutil.ReleaseOptions{Name: r.Name, Namespace: r.Namespace, IsInstall: !r.Upgrade, IsUpgrade: r.Upgrade, Revision: 1}
	all, err := chartutil.ToRenderValues(c, values, o, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// Join puts rendered templates together in one document stream, without notes
// and empty documents.
func Join(rendered map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if !strings.HasSuffix(name, ".yaml") {
			continue
		}
		for _, doc := range strings.Split(rendered[name], "\n---") {
			doc = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(doc), "---"))
			if doc != "" {
				fmt.Fprintf(&b, "---\n%s\n", doc)
			}
		}
	}
	return b.String()
}

//go:generate go run ./cmd/render

// PlainFiles are the files of deploy/kubernetes that are rendered, with the
// values that each adds to values.yaml there.
var PlainFiles = map[string]map[string]any{
	"image-builder.yaml":      nil,
	"image-builder-pods.yaml": {"kubernetes": map[string]any{"enabled": true, "namespace": "image-builder-builds"}},
}

// PlainManifests answers one of PlainFiles: the chart without anything that
// only Helm can do. Its secrets are made by hand.
func PlainManifests(root, file string) (string, error) {
	m, err := Render(filepath.Join(root, "helm/image-builder"), Release{Name: "image-builder", Namespace: "image-builder"},
		[]string{filepath.Join(root, "kubernetes/values.yaml")}, PlainFiles[file])
	if err != nil {
		return "", err
	}
	namespaces := "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: image-builder\n"
	if PlainFiles[file] != nil {
		namespaces += "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: image-builder-builds\n"
	}
	text := strings.ReplaceAll(inNamespace(Join(m), "image-builder"), "app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl")
	return "# Rendered from deploy/helm/image-builder with values.yaml of this folder; do not edit.\n# README.md names the secrets that it needs.\n" +
		namespaces + text, nil
}

var metadata = regexp.MustCompile(`(?m)^metadata:\n  name: \S+\n`)

// inNamespace names the namespace in objects that name none, as helm does when it
// creates them: kubectl would take that of its context.
func inNamespace(stream, namespace string) string {
	docs := strings.SplitAfter(stream, "---\n")
	for i, doc := range docs {
		if !strings.Contains(doc, "\n  namespace: ") {
			docs[i] = metadata.ReplaceAllString(doc, "${0}  namespace: "+namespace+"\n")
		}
	}
	return strings.Join(docs, "")
}
