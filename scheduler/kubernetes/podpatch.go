package kubernetes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/yaml"
)

// patch returns the pod template patch as JSON, or nil if there is none. Fields that a pod does not
// have are errors.
func (p *PodOptions) patch() ([]byte, error) {
	if len(bytes.TrimSpace(p.Patch)) == 0 {
		return nil, nil
	}
	raw, err := yaml.YAMLToJSONStrict(p.Patch)
	if err != nil {
		return nil, fmt.Errorf("kubernetes.podTemplate: is neither YAML nor JSON: %w", err)
	}
	if !bytes.Contains(raw, []byte(`"$`)) { // with patch directives it does not decode as a pod
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&corev1.Pod{}); err != nil {
			return nil, fmt.Errorf("kubernetes.podTemplate: does not fit a pod: %w", err)
		}
	}
	return raw, nil
}

// patched applies the patch, but keeps the fields by which the runtime finds its pods.
func patched(pod *corev1.Pod, p *PodOptions) (*corev1.Pod, error) {
	patch, err := p.patch()
	if err != nil || patch == nil {
		return pod, err
	}
	raw, err := json.Marshal(pod)
	if err != nil {
		return nil, fmt.Errorf("encode the pod %s: %w", pod.Name, err)
	}
	merged, err := strategicpatch.StrategicMergePatch(raw, patch, corev1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("apply the pod template patch to %s: %w", pod.Name, err)
	}
	out := &corev1.Pod{}
	if err := json.Unmarshal(merged, out); err != nil {
		return nil, fmt.Errorf("apply the pod template patch to %s: %w", pod.Name, err)
	}
	out.Name, out.GenerateName, out.Namespace, out.OwnerReferences = pod.Name, "", pod.Namespace, pod.OwnerReferences
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	maps.Copy(out.Labels, pod.Labels)
	out.Spec.RestartPolicy = pod.Spec.RestartPolicy
	if out.Spec.NodeName != "" {
		out.Spec.SchedulingGates = nil // the pod bypasses the scheduler
	}
	found := map[string]bool{}
	containers(&out.Spec, func(c *corev1.Container) { found[c.Name] = true })
	var missing error
	containers(&pod.Spec, func(c *corev1.Container) {
		if !found[c.Name] {
			missing = fmt.Errorf("the pod template patch removes the container %s, without which nothing can be built: change the patch", c.Name)
		}
	})
	return out, missing
}
