package deploytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// Object is a decoded Kubernetes object.
type Object map[string]any

// Kind returns the kind of the object.
func (o Object) Kind() string { return fmt.Sprint(o["kind"]) }

// Name returns the name of the object.
func (o Object) Name() string { return fmt.Sprint(o.At("metadata", "name")) }

// At returns the value at a path of keys, or nil.
func (o Object) At(path ...string) any {
	var v any = map[string]any(o)
	for _, k := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

// Objects decodes a stream of YAML documents. Repeated keys are errors.
func Objects(stream string) (out []Object, err error) {
	for _, doc := range strings.Split("\n"+stream, "\n---\n") {
		var o Object
		if err := yaml.UnmarshalStrict([]byte(doc), &o); err != nil {
			return nil, fmt.Errorf("%w in\n%s", err, doc)
		}
		if len(o) > 0 {
			out = append(out, o)
		}
	}
	return out, nil
}

var strict = serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()

// CheckBuiltin decodes an object strictly as one of the types of Kubernetes. Unknown fields and
// wrong types are errors.
func CheckBuiltin(o Object) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return err
	}
	_, _, err = strict.Decode(raw, nil, nil)
	return err
}

// Builtin reports whether the kind of the object belongs to Kubernetes, and not to a CRD.
func Builtin(o Object) bool {
	raw, _ := json.Marshal(o)
	_, _, err := strict.Decode(raw, nil, nil)
	return !runtime.IsNotRegisteredError(err)
}

// CRDs maps "apiVersion kind" to the schema.
type CRDs map[string]*apiextensionsv1.CustomResourceValidation

// ErrUnavailable means that a module with CRDs cannot be fetched.
var ErrUnavailable = errors.New("module cannot be fetched")

// ModuleFiles returns the files of a Go module that match the pattern. It downloads the module if
// it is not in the module cache.
func ModuleFiles(module, pattern string) ([]string, error) {
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir = os.TempDir()
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", module, ErrUnavailable)
	}
	var m struct{ Dir string }
	if err := json.Unmarshal(out, &m); err != nil {
		return nil, err
	}
	files, _ := filepath.Glob(filepath.Join(m.Dir, pattern))
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no files %s", module, pattern)
	}
	return files, nil
}

// LoadCRDs adds the CRDs in the matching files of a Go module.
func (c CRDs) LoadCRDs(module, pattern string) error {
	files, err := ModuleFiles(module, pattern)
	if err != nil {
		return err
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		for _, doc := range bytes.Split(raw, []byte("\n---\n")) {
			var crd apiextensionsv1.CustomResourceDefinition
			if err := yaml.Unmarshal(doc, &crd); err != nil || crd.Kind != "CustomResourceDefinition" {
				continue
			}
			for i := range crd.Spec.Versions {
				v := &crd.Spec.Versions[i]
				c[crd.Spec.Group+"/"+v.Name+" "+crd.Spec.Names.Kind] = v.Schema
			}
		}
	}
	return nil
}

// Check returns an error if the object does not match the schema of its CRD, or has unknown fields.
func (c CRDs) Check(o Object) error {
	s := c[fmt.Sprint(o["apiVersion"], " ", o["kind"])]
	if s == nil {
		return fmt.Errorf("no schema for %v %v", o["apiVersion"], o["kind"])
	}
	var internal apiextensions.CustomResourceValidation
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(s, &internal, nil); err != nil {
		return err
	}
	v, _, err := validation.NewSchemaValidator(internal.OpenAPIV3Schema)
	if err != nil {
		return err
	}
	var errs []error
	if res := v.Validate(map[string]any(o)); res != nil {
		errs = res.Errors
	}
	return errors.Join(append(errs, unknown("", map[string]any(o), s.OpenAPIV3Schema)...)...)
}

func unknown(path string, v any, s *apiextensionsv1.JSONSchemaProps) (errs []error) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			p, ok := s.Properties[k]
			switch {
			case path == "" && (k == "apiVersion" || k == "kind" || k == "metadata"):
			case ok:
				errs = append(errs, unknown(path+"."+k, x, &p)...)
			case s.AdditionalProperties != nil && s.AdditionalProperties.Schema != nil:
				errs = append(errs, unknown(path+"."+k, x, s.AdditionalProperties.Schema)...)
			case s.AdditionalProperties == nil && (s.XPreserveUnknownFields == nil || !*s.XPreserveUnknownFields):
				errs = append(errs, fmt.Errorf("unknown field %s.%s", path, k))
			}
		}
	case []any:
		if s.Items != nil && s.Items.Schema != nil {
			for i, x := range v {
				errs = append(errs, unknown(fmt.Sprintf("%s[%d]", path, i), x, s.Items.Schema)...)
			}
		}
	}
	return errs
}
