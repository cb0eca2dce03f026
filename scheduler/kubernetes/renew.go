package kubernetes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// renewTimeout limits one check of the credentials. Meanwhile the stream, which has its own
// goroutine, continues to store output.
const renewTimeout = 30 * time.Second

// renew writes the current credentials into the pod's Secret if they have changed: cloud
// credentials may expire during a build. The kubelet passes the change on to the proxy within a
// minute or two; the registry client renews credentials minutes before they expire. A failure is
// retried at the next check.
func (f *follower) renew(ctx context.Context) {
	if f.secret == nil || f.job == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	if err := f.r.renewSecret(ctx, f); err != nil && ctx.Err() == nil {
		f.r.opts.Log.Warn("cannot renew the registry credentials of a build pod, will try again", "pod", f.pod.Name, "err", err)
	}
}

func (r *Runtime) renewSecret(ctx context.Context, f *follower) error {
	now, failed, err := r.proxyOf(ctx, f.w, f.job)
	if err != nil {
		return err
	}
	was := &proxy.Config{}
	if err := json.Unmarshal(f.secret.Data[proxyFile], was); err != nil {
		return fmt.Errorf("the Secret %s holds no proxy configuration: somebody changed it", f.secret.Name)
	}
	for host := range failed { // the former credential may still be valid
		if auth, ok := was.Read[host]; ok {
			if now.Read == nil {
				now.Read = map[string]proxy.Auth{}
			}
			now.Read[host] = auth
		}
	}
	if maps.Equal(was.Read, now.Read) && maps.Equal(was.Own, now.Own) {
		return nil
	}
	was.Read, was.Own = now.Read, now.Own // everything else must stay as it is
	raw, err := json.Marshal(was)
	if err != nil {
		return fmt.Errorf("encode the proxy's configuration for %s", f.secret.Name) // the error might quote secrets
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"data":{%q:%q}}`, f.secret.UID, proxyFile, base64.StdEncoding.EncodeToString(raw))
	s, err := r.opts.Client.CoreV1().Secrets(f.secret.Namespace).Patch(ctx, f.secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil // deleted together with its pod
	}
	if err != nil {
		return err
	}
	f.secret = s
	r.opts.Log.Info("renewed the registry credentials of a build pod", "pod", f.pod.Name)
	return nil
}
