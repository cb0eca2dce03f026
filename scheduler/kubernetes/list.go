package kubernetes

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// List returns the names of the pods of the install that the API has, except those of another
// cluster.
func (r *Runtime) List(ctx context.Context) ([]string, error) {
	var names []string
	ours := r.opts.ours()
	opts := metav1.ListOptions{LabelSelector: installSelector(r.opts.Install), Limit: 500}
	for {
		list, err := r.opts.Client.CoreV1().Pods(r.opts.Namespace).List(ctx, opts)
		if err != nil {
			return nil, fmt.Errorf("list the build pods in namespace %s: %w", r.opts.Namespace, err)
		}
		for i := range list.Items {
			if p := &list.Items[i]; ours(p) {
				names = append(names, p.Name)
			}
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			slices.Sort(names)
			return names, nil
		}
	}
}
