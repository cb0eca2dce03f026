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

// Root is the path of the folder deploy, relative to this package.
const Root = "../../deploy"

// Release describes the Helm release for which a chart is rendered.
type Release struct {
	Name, Namespace string
	// Upgrade renders the upgrade of a release that is installed already.
	Upgrade bool
}

// Render returns the manifests of the chart by template. The values files override the chart's own
// values, a later file overrides an earlier one, and over overrides all of them.
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

// Join returns one stream of YAML documents with all rendered templates, without notes and empty
// documents.
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

// PlainFiles are the rendered files of deploy/kubernetes. Each has further values, which override
// values.yaml in that folder.
var PlainFiles = map[string]map[string]any{
	"image-builder.yaml":      nil,
	"image-builder-pods.yaml": {"kubernetes": map[string]any{"enabled": true, "namespace": "image-builder-builds"}},
}

// PlainManifests returns the content of one of PlainFiles: the rendered chart without the parts
// that need Helm. An operator makes its secrets by hand.
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

// inNamespace adds the namespace to objects without one, as helm does when it creates them. kubectl
// would use the namespace of its context instead.
func inNamespace(stream, namespace string) string {
	docs := strings.SplitAfter(stream, "---\n")
	for i, doc := range docs {
		if !strings.Contains(doc, "\n  namespace: ") {
			docs[i] = metadata.ReplaceAllString(doc, "${0}  namespace: "+namespace+"\n")
		}
	}
	return strings.Join(docs, "")
}
