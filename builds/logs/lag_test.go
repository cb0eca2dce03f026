package logs_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// refusingPeer is a node that takes copies, refuses them or does not answer.
type refusingPeer struct {
	store *logs.Store
	how   atomic.Pointer[error]
	asks  atomic.Int64
}

var errRefuses = errors.New("refuses")

func (p *refusingPeer) Append(ctx context.Context, _ logs.Copy, batch []logs.Append) ([]logs.Ack, error) {
	p.asks.Add(1)
	switch how := *p.how.Load(); {
	case how == nil:
		return p.store.Append(ctx, batch), nil
	case errors.Is(how, errRefuses):
		acks := make([]logs.Ack, len(batch))
		for i := range acks {
			acks[i].Refusal = how
		}
		return acks, nil
	default:
		return nil, how
	}
}

func (p *refusingPeer) be(err error) { p.how.Store(&err) }

// Test_Lag_IsTold: copies that trail are told by node, in trouble and metrics,
// and one that refused goes on where it was once it is asked again.
func Test_Lag_IsTold(t *testing.T) {
	peer := &refusingPeer{store: mustOpen(t, logs.Options{})}
	peer.be(nil)
	var rep *logs.Replicator
	reg := prometheus.NewRegistry()
	s := mustOpen(t, logs.Options{Grown: func(k logs.Key) { rep.Grown(k) }, Registerer: reg})
	rep = logs.NewReplicator(s, logs.Copy{Node: "a", StoreID: "s"}, peer, slog.New(slog.DiscardHandler))
	t.Cleanup(rep.Close)
	reg.MustRegister(rep)
	w, err := s.Create(key, 1, logs.NewRedactor(nil, nil), true)
	if err != nil {
		t.Fatal(err)
	}
	to := logs.Copy{Node: "b", StoreID: "s"}
	feed := rep.Start(key, 1, []logs.Copy{to}, 0)
	mustWrite(t, w, []byte("one\n"))
	readTo(t, s, key, 0, 4)
	peer.be(errRefuses)
	mustWrite(t, w, []byte(strings.Repeat("x", 9<<20)))
	testkit.Eventually(t, 20*time.Second, "the lag is told", func() bool {
		lags := rep.Lags()
		return len(lags) == 1 && lags[0].Node == "b" && lags[0].Bytes == 9<<20 && gathered(t, reg, "image_builder_log_copy_lag_bytes") == 9<<20
	})
	if n := gathered(t, reg, "image_builder_log_copied_bytes_total"); n > 1<<10 {
		t.Errorf("%v bytes count as copied, although the other node refuses all but one line", n)
	}
	if err := rep.Trouble(); err == nil || !strings.Contains(err.Error(), "node b trails by") {
		t.Errorf("the trouble is %v", err)
	}
	peer.be(nil)
	asked := peer.asks.Load()
	feed.Retry(to)
	readTo(t, s, key, 0, 4+9<<20)
	if peer.asks.Load() == asked {
		t.Error("the other node was not asked again")
	}
	testkit.Eventually(t, 20*time.Second, "the trouble is over", func() bool { return rep.Trouble() == nil }) // an answer holds for a while
	if n := gathered(t, reg, "image_builder_log_copied_bytes_total"); n < 9<<20 {
		t.Errorf("%v bytes copied", n)
	}
}

// gathered answers the sum of a gauge's or counter's values.
func gathered(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// Test_DiskFull_TroubleUntilThereIsRoom: a few bytes that found room do not end
// the trouble, a probe does.
func Test_DiskFull_TroubleUntilThereIsRoom(t *testing.T) {
	disk := &fullFS{FS: logs.Disk()}
	s := mustOpen(t, logs.Options{FS: disk})
	w := mustCreate(t, s, key, 1)
	disk.full.Store(true)
	mustWrite(t, w, []byte("during\n"))
	testkit.Eventually(t, 20*time.Second, "the trouble is told", func() bool { return errors.Is(s.Trouble(), logs.ErrNoSpace) })
	s.Probe()
	if !errors.Is(s.Trouble(), logs.ErrNoSpace) {
		t.Errorf("after a probe that found no room: %v", s.Trouble())
	}
	disk.full.Store(false)
	if _, _, err := sealWriter(t.Context(), s, w, key); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(s.Trouble(), logs.ErrNoSpace) {
		t.Errorf("after a small write: %v", s.Trouble())
	}
	s.Probe()
	if err := s.Trouble(); err != nil {
		t.Errorf("after a probe that found room: %v", err)
	}
}
