package kubernetes

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// podWatch is one informer for all pods of the install. It survives outages of the API, and then
// also reports the pods that ended meanwhile.
type podWatch struct {
	namespace string
	factory   informers.SharedInformerFactory
	informer  cache.SharedIndexInformer
	ours      func() func(*corev1.Pod) bool

	health watchHealth

	mu       sync.Mutex
	subs     map[string]map[*podSub]struct{}
	reserved map[string]struct{} // pods to be created that have a place under the limit: see reserve
	waiting  []string            // pods to be created that have none, in the order of their first call of reserve
}

// podSub holds the newest state of the pods of one name.
type podSub struct {
	changed chan struct{} // capacity 1

	mu      sync.Mutex
	pod     *corev1.Pod
	deleted bool
}

func startWatch(ctx context.Context, client kubernetes.Interface, namespace, install string, ours func() func(*corev1.Pod) bool, failed func(error)) (*podWatch, error) {
	f := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = installSelector(install) }),
		informers.WithTransform(func(obj any) (any, error) {
			p, ok := obj.(*corev1.Pod)
			if !ok {
				return obj, nil
			}
			bare := *p // a copy, because a client may keep the objects that it returns (client-go's fake does)
			bare.ManagedFields = nil
			return &bare, nil
		}))
	w := &podWatch{namespace: namespace, factory: f, ours: ours, informer: f.Core().V1().Pods().Informer(), subs: map[string]map[*podSub]struct{}{}, reserved: map[string]struct{}{}}
	_, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { w.notify(obj, false) },
		UpdateFunc: func(_, obj any) { w.notify(obj, false) },
		DeleteFunc: func(obj any) { w.notify(obj, true) },
	})
	if err != nil {
		return nil, err
	}
	// An expired or closed watch is normal, and the informer restarts it: do not report it.
	err = w.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		if ctx.Err() == nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) && !errors.Is(err, io.EOF) {
			w.health.recordError(err)
			failed(err)
		}
	})
	if err != nil {
		return nil, err
	}
	f.Start(ctx.Done())
	return w, nil
}

// close waits for the informer. Its context must have ended.
func (w *podWatch) close() { w.factory.Shutdown() }

func (w *podWatch) awaitSync(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), w.informer.HasSynced) {
		return context.Cause(ctx)
	}
	return nil
}

// notify passes a pod on to its subscribers. A pod that was deleted while the watch was broken
// comes with its last known state.
func (w *podWatch) notify(obj any, deleted bool) {
	if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = t.Obj
	}
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.reserved, p.Name)
	for s := range w.subs[p.Name] {
		s.set(p, deleted)
	}
}

// subscribe returns a podSub for the name, which starts with the pod that exists now, if any.
func (w *podWatch) subscribe(name string) *podSub {
	s := &podSub{changed: make(chan struct{}, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.subs[name] == nil {
		w.subs[name] = map[*podSub]struct{}{}
	}
	w.subs[name][s] = struct{}{}
	if p := w.cached(name); p != nil {
		s.set(p, false)
	}
	return s
}

func (w *podWatch) unsubscribe(name string, s *podSub) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.subs[name], s)
	if len(w.subs[name]) == 0 {
		delete(w.subs, name)
	}
}

func (w *podWatch) cached(name string) *corev1.Pod {
	obj, ok, err := w.informer.GetStore().GetByKey(w.namespace + "/" + name)
	if err != nil || !ok {
		return nil
	}
	p, _ := obj.(*corev1.Pod)
	return p
}

// all returns the pods of this cluster that the watch knows.
func (w *podWatch) all() []*corev1.Pod {
	var out []*corev1.Pod
	ours := w.ours()
	for _, obj := range w.informer.GetStore().List() {
		if p, ok := obj.(*corev1.Pod); ok && ours(p) {
			out = append(out, p)
		}
	}
	return out
}

// reserve takes a place for a pod that is to be created. It returns false if limit places are taken,
// or if pods that wait for longer need the free ones. The caller then calls it again, or leave. The
// place is held until the watch shows the pod, which then counts itself, or until free.
func (w *podWatch) reserve(name string, limit int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	turn := slices.Index(w.waiting, name)
	if turn < 0 {
		turn = len(w.waiting)
		w.waiting = append(w.waiting, name)
	}
	n, now := len(w.reserved), time.Now()
	for _, p := range w.all() {
		if _, counted := w.reserved[p.Name]; !counted && !over(p, now) {
			n++
		}
	}
	if n+turn >= limit {
		return false
	}
	w.waiting = slices.Delete(w.waiting, turn, turn+1)
	w.reserved[name] = struct{}{}
	return true
}

// leave ends the wait of a pod for a place.
func (w *podWatch) leave(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = slices.DeleteFunc(w.waiting, func(s string) bool { return s == name })
}

// free releases the place of a pod, if it has one.
func (w *podWatch) free(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.reserved, name)
}

func (s *podSub) set(p *corev1.Pod, deleted bool) {
	s.mu.Lock()
	s.pod, s.deleted = p, deleted
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// get returns the newest state of the pod with that UID, or nil if the watch has not shown it yet.
func (s *podSub) get(uid string) (p *corev1.Pod, deleted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod == nil || string(s.pod.UID) != uid {
		return nil, false
	}
	return s.pod, s.deleted
}
