package node

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/config"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	// notifyPath is the path that receives notifications of registries.
	notifyPath = "/v1/registry/notifications"
	// maxNotificationBytes is the size of the greatest envelope. Registries send one event or a
	// few.
	maxNotificationBytes = 4 << 20
)

// envelope is the part of a notification that the node reads. The format is that of the registry
// distribution, page "Work with notifications" of its documentation.
type envelope struct {
	Events []struct {
		Action string `json:"action"`
		Target struct {
			Repository string `json:"repository"`
			Tag        string `json:"tag"`
		} `json:"target"`
	} `json:"events"`
}

// handleNotification requests a refresh of the cached references that a registry reports as pushed.
// It returns 200 once the requests are committed. After any other status the registry repeats the
// notification.
//
// References match by repository and tag, whatever their host: a registry knows its own host name
// only from requests. An unnecessary refresh does no harm.
func (n *Node) handleNotification(w http.ResponseWriter, r *http.Request) {
	if !n.mayNotify(r.Header.Get("Authorization")) {
		http.Error(w, "the token differs from that of refCache.notifyTokenFile", http.StatusUnauthorized)
		return
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxNotificationBytes))
	if err != nil {
		http.Error(w, "the envelope cannot be read, or is larger than 4 MiB", http.StatusRequestEntityTooLarge)
		return
	}
	var e envelope
	if json.Unmarshal(raw, &e) != nil {
		http.Error(w, "the envelope is not JSON in the format of notifications of distribution", http.StatusBadRequest)
		return
	}
	var all []*imagebuilderv1.CachedRef
	n.store.Read(func(st *builds.State) { all = st.CachedRefs() })
	cmd := &buildsv1.RequestRefreshes{Refs: pushedRefs(e, all)}
	if len(cmd.Refs) == 0 {
		return
	}
	if _, err := n.service.RequestRefreshes(r.Context(), cmd); err != nil {
		n.log.Warn("cannot refresh the pushed references of a registry's notification; the registry should repeat it", "refs", len(cmd.Refs), "err", err)
		http.Error(w, "the cluster cannot commit now, repeat the notification", http.StatusServiceUnavailable)
		return
	}
	n.delayed.add(cmd.Refs, time.Now())
	n.log.Info("a registry reports pushed references", "refs", cmd.Refs)
}

// mayNotify reports whether an Authorization header has the configured token. The comparison takes
// the same time for all tokens of all lengths.
func (n *Node) mayNotify(header string) bool {
	want, err := config.ReadNotifyToken(n.cfg.RefCache.NotifyTokenFile)
	if err != nil {
		n.log.Warn("cannot read refCache.notifyTokenFile: notifications are refused", "err", err)
		return false
	}
	got, ok := strings.CutPrefix(header, "Bearer ")
	a, b := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && ok
}

// pushedRefs returns the cached references that an envelope reports as pushed, sorted.
func pushedRefs(e envelope, all []*imagebuilderv1.CachedRef) (refs []string) {
	pushed := map[string]bool{}
	for _, ev := range e.Events {
		if ev.Action == "push" && ev.Target.Tag != "" {
			pushed[ev.Target.Repository+":"+ev.Target.Tag] = true
		}
	}
	for _, r := range all {
		named, err := reference.ParseNormalizedNamed(r.Ref)
		if err != nil {
			continue
		}
		if tagged, ok := named.(reference.Tagged); ok && pushed[reference.Path(named)+":"+tagged.Tag()] {
			refs = append(refs, r.Ref)
		}
	}
	slices.Sort(refs)
	return refs
}

// repeatRefreshes requests the delayed refreshes of pushed references until ctx ends. A request
// that cannot be committed is dropped: the reference is refreshed at its next interval.
func (n *Node) repeatRefreshes(ctx context.Context) error {
	t := time.NewTicker(time.Second / 2)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			refs := n.delayed.takeDue(now)
			if len(refs) == 0 {
				continue
			}
			if _, err := n.service.RequestRefreshes(ctx, &buildsv1.RequestRefreshes{Refs: refs}); err != nil && ctx.Err() == nil {
				n.log.Warn("cannot repeat the refresh of pushed references", "refs", refs, "err", err)
			}
		}
	}
}
