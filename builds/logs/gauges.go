package logs

import (
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// watch exports the gauges of the store.
func (s *Store) watch(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	var used usage
	gauge("image_builder_log_disk_bytes", "Bytes of logs on the disk of this node, measured at most every 10 seconds.", func() float64 { return used.of(s.opts.Dir) })
	gauge("image_builder_log_disk_free_bytes", "Free bytes on the disk under the logs.", func() float64 {
		free, _ := freeBytes(s.opts.Dir)
		return float64(free)
	})
	gauge("image_builder_log_damaged", "Damaged copies of logs on the disk of this node that are not replaced yet.", func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.damaged))
	})
	gauge("image_builder_log_trouble", "1 while logs cannot be written and the node therefore takes no builds, else 0.", func() float64 {
		if s.Trouble() != nil {
			return 1
		}
		return 0
	})
}

// usageTTL is how long a measured size of the directory is reused.
const usageTTL = 10 * time.Second

// usage is the total size of the files in a directory.
type usage struct {
	mu    sync.Mutex
	at    time.Time
	bytes float64
}

func (u *usage) of(dir string) float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.at) < usageTTL {
		return u.bytes
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return u.bytes
	}
	u.at, u.bytes = time.Now(), 0
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			u.bytes += float64(info.Size())
		}
	}
	return u.bytes
}
