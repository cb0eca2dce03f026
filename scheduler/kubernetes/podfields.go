package kubernetes

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// PodFields are parts of pods as JSON, in the format of the Kubernetes API; nil means not set.
// Unknown fields are errors.
type PodFields struct {
	// Worker, BuildKit and Proxy are each a ResourceRequirements.
	Worker, BuildKit, Proxy json.RawMessage
	// Tolerations is a list of Toleration.
	Tolerations json.RawMessage
	Affinity    json.RawMessage
	// Cache is a VolumeSource.
	Cache json.RawMessage
	// Patch is a Pod, or a part of one.
	Patch json.RawMessage
	// StateSize and SpoolSize are quantities, such as 20Gi.
	StateSize, SpoolSize string
}

// Read decodes the fields into the options. The error names each wrong field by its configuration
// key.
func (f PodFields) Read(p *PodOptions) error {
	if len(f.Patch) > 0 && string(f.Patch) != "null" {
		p.Patch = f.Patch
	}
	return errors.Join(
		readField("resources.worker", f.Worker, &p.Worker),
		readField("resources.buildkit", f.BuildKit, &p.BuildKit),
		readField("resources.proxy", f.Proxy, &p.Proxy),
		readField("tolerations", f.Tolerations, &p.Tolerations),
		readField("affinity", f.Affinity, &p.Affinity),
		readVolume(f.Cache, &p.Cache),
		readSize("stateSize", f.StateSize, &p.StateSize),
		readSize("spoolSize", f.SpoolSize, &p.SpoolSize),
	)
}

func readField[T any](key string, raw json.RawMessage, to *T) error {
	if len(raw) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return fmt.Errorf("kubernetes.%s: is not valid for Kubernetes: %w", key, err)
	}
	return nil
}

// readVolume treats an empty object as no volume, because an empty VolumeSource has no meaning.
func readVolume(raw json.RawMessage, to **corev1.VolumeSource) error {
	var v corev1.VolumeSource
	if err := readField("cacheVolume", raw, &v); err != nil {
		return err
	}
	if v != (corev1.VolumeSource{}) {
		*to = &v
	}
	return nil
}

func readSize(key, s string, to *resource.Quantity) (err error) {
	if s == "" {
		return nil
	}
	if *to, err = resource.ParseQuantity(s); err != nil {
		return fmt.Errorf("kubernetes.%s: %q is not a quantity: write it like 20Gi", key, s)
	}
	return nil
}

// SetPullPolicy sets when images are pulled; "" means the default of Kubernetes.
func (p *PodOptions) SetPullPolicy(policy string) error {
	switch v := corev1.PullPolicy(policy); v {
	case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
		p.ImagePullPolicy = v
		return nil
	}
	return fmt.Errorf("kubernetes.imagePullPolicy: %q is not one of Always, IfNotPresent and Never", policy)
}
