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

// renewTime bounds one look at the credentials. Output that comes meanwhile
// goes on: the stream has a goroutine of its own.
const renewTime = 30 * time.Second

// renew writes the credentials of this moment into the pod's Secret if they
// have changed: those of clouds live for shorter than a build may. The kubelet
// shows the proxy the change within a minute or two, and the registry client
// renews what ends minutes before. What fails is tried again at the next look.
func (f *follower) renew(ctx context.Context) {
	if f.secret == nil || f.job == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	if err := f.r.renewSecret(ctx, f); err != nil && ctx.Err() == nil {
		f.r.o.Log.Warn("cannot renew the registry credentials of a build pod, will try again", "pod", f.pod.Name, "err", err)
	}
}

func (r *Runtime) renewSecret(ctx context.Context, f *follower) error {
	now, failed, err := r.proxyOf(ctx, f.w, f.job)
	if err != nil {
		return err
	}
	was := &proxy.Config{}
	if err := json.Unmarshal(f.secret.Data[proxyFile], was); err != nil {
		return fmt.Errorf("the Secret %s holds no configuration of a proxy: somebody changed it", f.secret.Name)
	}
	for host := range failed { // it may work still
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
	was.Read, was.Own = now.Read, now.Own // nothing else of it may change
	raw, err := json.Marshal(was)
	if err != nil {
		return fmt.Errorf("encode the proxy's configuration for %s", f.secret.Name) // an error might quote secrets
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"data":{%q:%q}}`, f.secret.UID, proxyFile, base64.StdEncoding.EncodeToString(raw))
	s, err := r.o.Client.CoreV1().Secrets(f.secret.Namespace).Patch(ctx, f.secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil // with its pod
	}
	if err != nil {
		return err
	}
	f.secret = s
	r.o.Log.Info("renewed the registry credentials of a build pod", "pod", f.pod.Name)
	return nil
}
