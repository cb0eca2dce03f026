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
	// notifyPath takes notifications of registries.
	notifyPath = "/v1/registry/notifications"
	// maxNotification bounds one envelope; distribution sends an event or a few.
	maxNotificationBytes = 4 << 20
)

// envelope is the part that is read of distribution's notifications (its
// documentation of the format: "Work with notifications").
type envelope struct {
	Events []struct {
		Action string `json:"action"`
		Target struct {
			Repository string `json:"repository"`
			Tag        string `json:"tag"`
		} `json:"target"`
	} `json:"events"`
}

// notified makes the cached references due that a registry says were pushed.
// It answers 200 once that is committed: a registry tries again otherwise.
//
// References are matched by repository and tag alone, whatever their host: a
// registry knows its own name from the requests of others only. To refresh one
// too many does no harm.
func (n *Node) handleNotification(w http.ResponseWriter, r *http.Request) {
	if !n.mayNotify(r.Header.Get("Authorization")) {
		http.Error(w, "the token is not that of refCache.notifyTokenFile", http.StatusUnauthorized)
		return
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxNotificationBytes))
	if err != nil {
		http.Error(w, "the envelope cannot be read, or is larger than 4 MiB", http.StatusRequestEntityTooLarge)
		return
	}
	var e envelope
	if json.Unmarshal(raw, &e) != nil {
		http.Error(w, "the envelope is not JSON of distribution's notifications", http.StatusBadRequest)
		return
	}
	var all []*imagebuilderv1.CachedRef
	n.store.Read(func(st *builds.State) { all = st.CachedRefs() })
	cmd := &buildsv1.RequestRefreshes{Refs: pushedRefs(e, all)}
	if len(cmd.Refs) == 0 {
		return
	}
	if _, err := n.service.RequestRefreshes(r.Context(), cmd); err != nil {
		n.log.Warn("cannot refresh what a registry says was pushed; it should tell again", "refs", len(cmd.Refs), "err", err)
		http.Error(w, "the cluster cannot commit now, tell again", http.StatusServiceUnavailable)
		return
	}
	n.delayed.add(cmd.Refs, time.Now())
	n.log.Info("a registry says what was pushed", "refs", cmd.Refs)
}

// mayNotify compares in constant time, whatever the lengths.
func (n *Node) mayNotify(header string) bool {
	want, err := config.ReadNotifyToken(n.cfg.RefCache.NotifyTokenFile)
	if err != nil {
		n.log.Warn("refCache.notifyTokenFile cannot be read: notifications are refused", "err", err)
		return false
	}
	got, ok := strings.CutPrefix(header, "Bearer ")
	a, b := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && ok
}

// pushedRefs answers the cached references that an envelope is about.
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

// refreshLate makes due once more what registries told of. It blocks until ctx
// ends. What cannot be committed then is left to the next interval.
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
				n.log.Warn("cannot refresh once more what a registry says was pushed", "refs", refs, "err", err)
			}
		}
	}
}
