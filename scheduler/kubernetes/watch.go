package kubernetes

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// podWatch is one informer for all pods of the install. It survives outages of
// the API, and tells of pods that ended meanwhile as well.
type podWatch struct {
	namespace string
	factory   informers.SharedInformerFactory
	informer  cache.SharedIndexInformer
	ours      func() func(*corev1.Pod) bool

	trouble trouble

	mu     sync.Mutex
	subs   map[string]map[*podSub]struct{}
	places map[string]struct{} // names of pods to come that have a place: see reserve
}

// podSub follows the pods of one name.
type podSub struct {
	news chan struct{} // capacity 1

	mu      sync.Mutex
	pod     *corev1.Pod
	deleted bool
}

func startWatch(ctx context.Context, client kubernetes.Interface, namespace, install string, ours func() func(*corev1.Pod) bool, failed func(error)) (*podWatch, error) {
	f := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = installSelector(install) }),
		informers.WithTransform(func(obj any) (any, error) {
			if p, ok := obj.(*corev1.Pod); ok {
				p.ManagedFields = nil
			}
			return obj, nil
		}))
	w := &podWatch{namespace: namespace, factory: f, ours: ours, informer: f.Core().V1().Pods().Informer(), subs: map[string]map[*podSub]struct{}{}, places: map[string]struct{}{}}
	_, err := w.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { w.tell(obj, false) },
		UpdateFunc: func(_, obj any) { w.tell(obj, false) },
		DeleteFunc: func(obj any) { w.tell(obj, true) },
	})
	if err != nil {
		return nil, err
	}
	// A watch that ends, or is too old, is nothing to tell: it begins anew.
	err = w.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
		if ctx.Err() == nil && !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) && !errors.Is(err, io.EOF) {
			w.trouble.note(err)
			failed(err)
		}
	})
	if err != nil {
		return nil, err
	}
	f.Start(ctx.Done())
	return w, nil
}

// close waits for the informer, whose context has ended.
func (w *podWatch) close() { w.factory.Shutdown() }

func (w *podWatch) awaitSync(ctx context.Context) error {
	if !cache.WaitForCacheSync(ctx.Done(), w.informer.HasSynced) {
		return context.Cause(ctx)
	}
	return nil
}

// tell passes a pod on. One that was deleted while the watch was broken comes
// with its last state that was seen.
func (w *podWatch) tell(obj any, deleted bool) {
	if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = t.Obj
	}
	p, ok := obj.(*corev1.Pod)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.places, p.Name)
	for s := range w.subs[p.Name] {
		s.set(p, deleted)
	}
}

// subscribe follows the pods of a name, from the one that is there now.
func (w *podWatch) subscribe(name string) *podSub {
	s := &podSub{news: make(chan struct{}, 1)}
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

// all answers the pods of this cluster that the watch knows.
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

// reserve takes a place for a pod that is to be created, if less than limit are
// taken. It is free again when the watch has shown the pod, which counts from
// then on, or by free: at the end of its Run.
func (w *podWatch) reserve(name string, limit int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, now := len(w.places), time.Now()
	for _, p := range w.all() {
		if _, counted := w.places[p.Name]; !counted && !over(p, now) {
			n++
		}
	}
	if n >= limit {
		return false
	}
	w.places[name] = struct{}{}
	return true
}

// free gives the place of a pod back.
func (w *podWatch) free(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.places, name)
}

func (s *podSub) set(p *corev1.Pod, deleted bool) {
	s.mu.Lock()
	s.pod, s.deleted = p, deleted
	s.mu.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// get answers the newest state of the pod with that UID, nil if the watch has
// not seen it yet.
func (s *podSub) get(uid string) (p *corev1.Pod, deleted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod == nil || string(s.pod.UID) != uid {
		return nil, false
	}
	return s.pod, s.deleted
}
