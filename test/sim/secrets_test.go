package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// secretsOutliveLeaders transfers the leadership again and again, while clients of all nodes create
// builds with secrets. Every record of an acknowledged build must have its secrets, and every
// attempt receives them.
func secretsOutliveLeaders(w *world) error {
	const clients, transfers = 6, 6
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var mu sync.Mutex
	var problems []error
	acked := 0
	var wg sync.WaitGroup
	for c := range clients {
		r := w.nodes[c%len(w.nodes)].alive()
		wg.Go(func() {
			for i := 0; wait(ctx, time.Millisecond); i++ {
				id, err := buildWithSecret(r, fmt.Sprintf("c%d-%d", c, i))
				mu.Lock()
				switch {
				case err != nil:
					problems = append(problems, err)
				case id != "":
					acked++
				}
				mu.Unlock()
			}
		})
	}
	for range transfers {
		lead, _ := w.awaitLeader()
		err := lead.alive().cluster().TransferLeadership(ctx, "")
		w.log("the leadership of %s is transferred (%v)", lead.name, err)
		wait(ctx, 200*time.Millisecond)
	}
	cancel()
	wg.Wait()
	w.log("%d builds were acknowledged", acked)
	if acked < 100 {
		problems = append(problems, fmt.Errorf("only %d builds were acknowledged", acked))
	}
	return errors.Join(problems[:min(len(problems), 3)]...)
}

// buildWithSecret creates a build whose request has a secret. It returns an error if the
// acknowledged build has no secret, and no id if the service was not available.
func buildWithSecret(r *running, name string) (id string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	ref := "docker.io/library/" + name + ":1"
	for passwordOf(ref) == "" {
		ref += "0"
	}
	res, err := r.api().BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
		Source: source(ref), Requester: "c", RequestId: name, Force: true,
		Auth: authOf(ref),
	})
	code := status.Code(err)
	switch {
	case err == nil:
	case strings.Contains(err.Error(), builds.ErrSecretsLost.Error()):
		return "", fmt.Errorf("create build %s: %w", name, err)
	case code == codes.Unavailable, code == codes.DeadlineExceeded:
		return "", nil
	default:
		return "", fmt.Errorf("create build %s: %w", name, err)
	}
	rec := r.store().Build(res.Build.Id)
	if rec.GetBuild().GetEndedAt() == nil && rec.GetSecrets() == nil {
		return "", fmt.Errorf("build %s is acknowledged and has no secrets", name)
	}
	return res.Build.Id, nil
}
