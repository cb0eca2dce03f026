package peer

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// noConn is the way to other nodes of a node that is alone.
func noConn(string, string) (grpc.ClientConnInterface, error) { return nil, builds.ErrLogAway }

// Test_Reap_KeepsWhatTheStateDoesNotKnowYet: a node may receive a copy before its state knows the
// build. The copy is removed once it has been idle.
func Test_Reap_KeepsWhatTheStateDoesNotKnowYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := Open(Options{
			Node: "n", StoreID: "s", Conn: noConn, State: builds.NewStore(), Stopping: t.Context(), Log: slog.New(slog.DiscardHandler),
			Store: logs.Options{Dir: t.TempDir()},
		})
		if err != nil {
			t.Fatal(err)
		}
		key := logs.Key{Build: "b", Attempt: 1}
		send := func() *buildsv1.LogAck {
			res, err := service{l: l}.AppendLogs(context.Background(), &buildsv1.AppendLogsRequest{Appends: []*buildsv1.LogAppend{{BuildId: key.Build, Attempt: 1, Epoch: 1}}})
			if err != nil {
				t.Fatal(err)
			}
			return res.Acks[0]
		}
		send()
		l.Reap()
		if _, _, err := l.store.Length(t.Context(), key); err != nil {
			t.Errorf("a copy whose build is not known yet is gone: %v", err)
		}
		if a := send(); a.Refusal != buildsv1.LogRefusal_LOG_REFUSAL_UNSPECIFIED {
			t.Errorf("the next append is refused: %v", a)
		}
		time.Sleep(idleTimeout)
		l.Reap()
		if _, _, err := l.store.Length(t.Context(), key); err == nil {
			t.Error("a copy of an unknown build is never removed")
		}
		l.StopCopying()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
