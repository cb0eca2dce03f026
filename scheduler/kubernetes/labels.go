package kubernetes

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Labels of pods and Secrets.
const (
	labelPrefix  = "image-builder/"
	labelInstall = labelPrefix + "install"
	labelBuild   = labelPrefix + "build"
	labelAttempt = labelPrefix + "attempt"
	// labelCluster is the id of the cluster that the pod builds for. Pods of older versions have
	// none.
	labelCluster = labelPrefix + "cluster"
	// labelEpoch and labelOwner describe the owner that follows the pod; an adopting owner changes
	// them.
	labelEpoch = labelPrefix + "epoch"
	labelOwner = labelPrefix + "owner"
)

// installSelector returns the label selector for all objects of an install.
func installSelector(install string) string {
	return labels.SelectorFromSet(labels.Set{labelInstall: install}).String()
}

func podLabels(o *Options, w *workload.Workload) map[string]string {
	l := map[string]string{
		labelInstall: o.Install,
		labelBuild:   asLabel(w.BuildID),
		labelAttempt: strconv.FormatUint(uint64(w.Attempt), 10),
		labelEpoch:   strconv.FormatUint(w.Epoch, 10),
		labelOwner:   asLabel(o.Node),
	}
	if id := o.clusterID(); id != "" {
		l[labelCluster] = asLabel(id)
	}
	return l
}

// ours returns a function that reports whether a pod of the install belongs to this cluster.
// Another cluster may use the same install name by mistake.
func (o *Options) ours() func(*corev1.Pod) bool {
	id := o.clusterID()
	return func(p *corev1.Pod) bool {
		of := p.Labels[labelCluster]
		return of == "" || id == "" || of == asLabel(id)
	}
}

func (o *Options) clusterID() string {
	if o.Cluster == nil {
		return ""
	}
	return o.Cluster()
}

// asLabel returns s if it is a valid label value, and a hash of it otherwise.
func asLabel(s string) string {
	if len(validation.IsValidLabelValue(s)) == 0 {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + hex.EncodeToString(sum[:16])
}

// epochOf returns the epoch of the last owner of a pod.
func epochOf(p *corev1.Pod) uint64 {
	n, _ := strconv.ParseUint(p.Labels[labelEpoch], 10, 64) // 0 if somebody changed the label
	return n
}

// ownerPatch returns a merge patch that makes this node the owner. It carries the UID, so that it
// cannot change another pod of the same name.
func ownerPatch(p *corev1.Pod, o *Options, epoch uint64) []byte {
	cluster := ""
	if id := o.clusterID(); id != "" {
		cluster = fmt.Sprintf(",%q:%q", labelCluster, asLabel(id))
	}
	return fmt.Appendf(nil, `{"metadata":{"uid":%q,"labels":{%q:%q,%q:%q%s}}}`,
		p.UID, labelOwner, asLabel(o.Node), labelEpoch, strconv.FormatUint(epoch, 10), cluster)
}
