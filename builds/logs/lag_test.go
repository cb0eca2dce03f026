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
)

// refusingPeer is a node that accepts appends, refuses them or does not respond.
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

// Test_Lag_IsTold checks that Trouble and the metrics report the nodes whose copies are behind, and
// that Retry continues a copy that has refused an append at its length.
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
	becomes(t, "the lag is reported", func() bool {
		lags := rep.Lags()
		return len(lags) == 1 && lags[0].Node == "b" && lags[0].Bytes == 9<<20 && gathered(t, reg, "image_builder_log_copy_lag_bytes") == 9<<20
	})
	if n := gathered(t, reg, "image_builder_log_copied_bytes_total"); n > 1<<10 {
		t.Errorf("%v bytes are counted as copied although the other node refuses all but one line", n)
	}
	if err := rep.Trouble(); err == nil || !strings.Contains(err.Error(), "node b is 9437184 bytes behind") {
		t.Errorf("Trouble returns %v", err)
	}
	peer.be(nil)
	asked := peer.asks.Load()
	feed.Retry(to)
	readTo(t, s, key, 0, 4+9<<20)
	if peer.asks.Load() == asked {
		t.Error("nothing was sent to the other node again")
	}
	becomes(t, "the lag is over", func() bool { return rep.Trouble() == nil }) // Trouble caches its result
	if n := gathered(t, reg, "image_builder_log_copied_bytes_total"); n < 9<<20 {
		t.Errorf("%v bytes copied", n)
	}
}

// gathered returns the sum of the values of a gauge or counter.
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

func becomes(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// Test_DiskFull_TroubleUntilThereIsRoom checks that a small successful write does not clear the
// error of a full disk, and that a successful probe does.
func Test_DiskFull_TroubleUntilThereIsRoom(t *testing.T) {
	disk := &fullFS{FS: logs.Disk()}
	s := mustOpen(t, logs.Options{FS: disk})
	w := mustCreate(t, s, key, 1)
	disk.full.Store(true)
	mustWrite(t, w, []byte("during\n"))
	becomes(t, "Trouble reports the full disk", func() bool { return errors.Is(s.Trouble(), logs.ErrNoSpace) })
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
