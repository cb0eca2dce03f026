//go:build faults

package raftlog_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/disktest"
)

// powerLossTime bounds the next test.
const powerLossTime = 4 * time.Second

// Test_PowerLoss_Log appends, truncates and compacts a log in a random order on a real file system,
// which is synced at random, and loses the power at random moments. The log must be accepted and
// have exactly what was acknowledged.
func Test_PowerLoss_Log(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	disk := disktest.NewLoop(t, 32<<20)
	dir := filepath.Join(disk.Dir, "node")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	disk.Run("sync", "-f", disk.Dir)
	m := &modelLog{t: t, data: map[uint64]string{}}
	var err error
	if m.log, err = openAt(dir, nil, true); err != nil {
		t.Fatal(err)
	}
	losses, truncations := 0, 0
	for begin := time.Now(); time.Since(begin) < powerLossTime && !t.Failed(); {
		switch k := r.IntN(20); {
		case k < 12 || m.last-m.first < 4:
			m.must(m.append(m.last+1, 1+r.IntN(5)))
		case k < 15:
			truncations++
			m.must(m.remove(m.last-uint64(r.IntN(3)), m.last))
			m.must(r.IntN(2) == 0 || m.append(m.last+1, 1))
		case k < 16:
			m.must(m.remove(m.first, m.first+uint64(r.IntN(3))))
		case k < 18:
			disk.Run("sync", "-f", filepath.Join(dir, "written"))
		default:
			losses++
			t.Run("", func(t *testing.T) {
				after := *m
				after.t = t
				if after.log, err = openAt(filepath.Join(disk.PowerLoss(t).Dir, "node"), nil, false); err != nil {
					t.Fatalf("a sound directory is refused: %v", err)
				}
				defer func() { _ = after.log.Close() }()
				after.check("after the power loss")
			})
		}
	}
	if err := m.log.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d power losses and %d truncations", losses, truncations)
	if losses < 3 || truncations < 3 {
		t.Error("the test is too slow to prove anything")
	}
}
