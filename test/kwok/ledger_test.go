//go:build kubernetes

package kwok_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

const etcd = "http://127.0.0.1:2379"

// ledger counts all objects that were created in a namespace. It watches etcd, which the test does
// not kill. A watch of the API server may miss objects that exist only while the server is down.
type ledger struct {
	mu   sync.Mutex
	made map[string]int  // by resource/name
	live map[string]bool // by resource/name
	err  error
}

// keepLedger starts to count the pods and Secrets of a namespace, until the test ends.
func keepLedger(t *testing.T, namespace string) *ledger {
	t.Helper()
	l := &ledger{made: map[string]int{}, live: map[string]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	var watches sync.WaitGroup
	for _, resource := range []string{"pods", "secrets"} {
		began := make(chan struct{})
		watches.Go(func() {
			err := l.watch(ctx, resource, fmt.Sprintf("/registry/%s/%s/", resource, namespace), began)
			if ctx.Err() == nil {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.err = errors.Join(l.err, fmt.Errorf("the watch of %s in etcd: %w", resource, err))
			}
		})
		select {
		case <-began:
		case <-t.Context().Done():
			t.Error("the watch of etcd does not begin")
		}
	}
	t.Cleanup(func() {
		stop()
		watches.Wait()
	})
	return l
}

// watch watches keys through the JSON gateway of etcd (etcd 3.4, v3 API). It returns when the
// stream ends.
func (l *ledger) watch(ctx context.Context, resource, prefix string, began chan<- struct{}) error {
	end := []byte(prefix)
	end[len(end)-1]++
	body, err := json.Marshal(map[string]any{"create_request": map[string]any{"key": []byte(prefix), "range_end": end}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, etcd+"/v3/watch", bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for {
		var m struct {
			Result struct {
				Created, Canceled bool
				Events            []struct {
					Type string
					KV   struct {
						Key            []byte
						CreateRevision string `json:"create_revision"`
						ModRevision    string `json:"mod_revision"`
					}
				}
			}
			Error json.RawMessage
		}
		if err := dec.Decode(&m); err != nil {
			return err
		}
		if m.Result.Canceled || m.Error != nil {
			return fmt.Errorf("the watch was canceled: %s", m.Error)
		}
		if m.Result.Created {
			close(began)
		}
		l.mu.Lock()
		for _, e := range m.Result.Events {
			name := resource + "/" + path.Base(string(e.KV.Key))
			switch {
			case e.Type == "DELETE":
				delete(l.live, name)
			case e.KV.CreateRevision == e.KV.ModRevision:
				l.made[name]++
				l.live[name] = true
			}
		}
		l.mu.Unlock()
	}
}

// left returns the sorted names of the existing objects of a resource.
func (l *ledger) left(resource string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return of(resource, slices.Collect(maps.Keys(l.live)))
}

// everMade returns how often each object of a resource was created, by name.
func (l *ledger) everMade(resource string) (map[string]int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]int{}
	for _, name := range of(resource, slices.Collect(maps.Keys(l.made))) {
		out[name] = l.made[resource+"/"+name]
	}
	return out, l.err
}

func of(resource string, names []string) []string {
	var out []string
	for _, n := range names {
		if name, ok := strings.CutPrefix(n, resource+"/"); ok {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// requests counts the requests of the service accounts of a namespace in the audit log, by verb and
// resource.
func requests(t *testing.T, namespace string) map[string]int {
	t.Helper()
	f, err := os.Open(kube.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string]int{}
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return out // a killed server may leave an incomplete line
		}
		if err != nil {
			t.Fatal(err)
		}
		var e struct {
			Verb      string
			User      struct{ Username string }
			ObjectRef struct{ Resource, Subresource string }
		}
		if json.Unmarshal(line, &e) != nil || !strings.HasPrefix(e.User.Username, "system:serviceaccount:"+namespace+":") {
			continue // also skips a line that a killed server began and the next server continued
		}
		out[e.Verb+" "+e.ObjectRef.Resource]++
	}
}
