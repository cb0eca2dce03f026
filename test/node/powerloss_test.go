//go:build faults

package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/disks"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_PowerLoss takes the power from the disk of a node at random moments, while clients create
// builds. The node always starts again, and has every build that was acknowledged before.
//
// In addition one bit of the replicated log is changed on a copy of the disk of a killed node: a
// random one, or in the header of one of the last entries. A node on the copy refuses to start and
// says that the data is damaged, or has every acknowledged build.
// With SOAK there are 50 moments, and bits are also changed on copies right after the power loss.
// Such changes are only counted if acknowledged builds are lost: the file that records how far the
// log was written is not synced, so that damage can look like a torn write.
func Test_PowerLoss(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{Quiet: true})
	refs := harness.PushImages(t, reg, 20)
	d := disks.New(t, 256<<20)
	// Small files and snapshots, so that each of their changes occurs.
	conf := harness.Config{
		"log":     map[string]any{"level": "info"},
		"raft":    map[string]any{"segmentBytes": 256 << 10, "snapshotThreshold": 300, "snapshotInterval": "1s", "trailingLogs": 400},
		"history": map[string]any{"total": 100_000, "perRequester": 100_000},
		"builds":  map[string]any{"uncountedAttempts": 100},
	}
	on := func(d *disks.Disk) *harness.Node {
		n := harness.New(t, t.TempDir(), reg.Addr, conf)
		n.Override(harness.Config{"dataDir": filepath.Join(d.Path, "data")})
		return n
	}
	n := on(d)
	n.Run()
	acked := &ackedBuilds{states: map[string]string{}}
	var changed, refused, hidden int
	damage := func(moment string, c *disks.Disk, header bool) (lost int) {
		what := flip(t, c.Path, header)
		victim := on(c)
		victim.Launch()
		changed++
		if runs(t, victim) {
			lost = len(acked.missing(t, victim))
			t.Logf("%s: %s: the node started, %d acknowledged builds are missing", moment, what, lost)
		} else {
			refused++
			if log := victim.Log(); victim.ExitCode() == 0 || !strings.Contains(log, "is damaged") {
				t.Errorf("%s: %s: the node ended with status %d and does not say that its data is damaged:\n%s", moment, what, victim.ExitCode(), log[max(0, len(log)-2000):])
			}
		}
		victim.Kill()
		c.Remove()
		return lost
	}
	for i := range testkit.InSoak(50, 2) {
		stop := createBuilds(t, n, refs, acked)
		<-time.After(200*time.Millisecond + rand.N(1800*time.Millisecond)) // the time until the fault
		d.Cut(n.Pid())
		n.Kill()
		stop()
		d.Restore()
		if testkit.Soak() {
			if lost := damage(fmt.Sprint("power loss ", i), d.Copy(t), i%2 == 0); lost > 0 {
				hidden++
			}
		}
		n.Run()
		if missing := acked.missing(t, n); len(missing) > 0 {
			t.Errorf("power loss %d: %d of %d acknowledged builds are missing or changed", i, len(missing), len(acked.states))
		}

		stop = createBuilds(t, n, refs, acked)
		<-time.After(rand.N(time.Second))
		stop()
		n.Kill()
		if lost := damage(fmt.Sprint("kill ", i), d.Copy(t), i%2 == 0); lost > 0 {
			t.Errorf("kill %d: %d acknowledged builds are missing", i, lost)
		}
		n.Run()
		if missing := acked.missing(t, n); len(missing) > 0 {
			t.Errorf("kill %d: %d acknowledged builds are missing", i, len(missing))
		}
	}
	for id := range acked.states {
		if b := n.Wait(t, testkit.Context(t, time.Minute), id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			t.Errorf("acknowledged build %s is %s: %s", id, b.GetPhase(), b.GetMessage())
		}
	}
	t.Logf("%d acknowledged builds; %d of %d changed logs were refused, %d lost builds after a power loss", len(acked.states), refused, changed, hidden)
}

// ackedBuilds are acknowledged builds: the parts of them that never change, by build id.
type ackedBuilds struct {
	mu     sync.Mutex
	states map[string]string
}

func (a *ackedBuilds) add(b *imagebuilderv1.Build) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.states[b.Id] = firstState(b)
}

// firstState formats the parts of a build that never change.
func firstState(b *imagebuilderv1.Build) string {
	return fmt.Sprintf("%s %s %s %s", b.Ref, b.Requester, b.CreatedAt.AsTime(), b.Source)
}

// createBuilds creates builds by several clients and records the acknowledged ones in acked, until
// stop is called. It returns once a build was acknowledged.
func createBuilds(t *testing.T, n *harness.Node, refs []string, acked *ackedBuilds) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	first := make(chan struct{}, 1)
	for i := range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				ref := refs[rand.IntN(len(refs))]
				res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
					RequestId: uuid.NewString(), Source: harness.RefSource(ref), Force: true, Requester: fmt.Sprint("r", i),
				})
				if err != nil {
					continue
				}
				acked.add(res.Build)
				select {
				case first <- struct{}{}:
				default:
				}
			}
		})
	}
	select {
	case <-first:
	case <-time.After(time.Minute):
		t.Error("no build was acknowledged within a minute")
	}
	return func() { cancel(); clients.Wait() }
}

// missing returns the acknowledged builds that a node does not have, or has with other content.
func (a *ackedBuilds) missing(t *testing.T, n *harness.Node) map[string]bool {
	t.Helper()
	have := map[string]string{}
	req := &imagebuilderv1.ListBuildsRequest{PageSize: 1000, Linearizable: true}
	for more := true; more; more = req.PageToken != "" {
		res, err := harness.Persist(testkit.Context(t, time.Minute), func(ctx context.Context) (*imagebuilderv1.ListBuildsResponse, error) {
			return n.Native.ListBuilds(ctx, req)
		})
		if err != nil {
			t.Fatalf("list the builds: %v", err)
		}
		for _, b := range res.Builds {
			have[b.Id] = firstState(b)
		}
		req.PageToken, req.Linearizable = res.NextPageToken, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]bool{}
	for id, want := range a.states {
		if have[id] != want {
			out[id] = true
		}
	}
	return out
}

// runs waits until a launched node is ready, or has ended, which it reports.
func runs(t *testing.T, n *harness.Node) (ready bool) {
	t.Helper()
	testkit.Eventually(t, time.Minute, "the node is ready or has ended", func() bool {
		_, code := n.Get("http://" + n.Health + "/ready")
		ready = code == 200
		return ready || !n.Alive()
	})
	return ready && n.Alive()
}

// flip changes one bit of the replicated log, and describes it: a random one before the last written
// byte of a random segment, or one of the length of an entry near the end of the log.
func flip(t *testing.T, dir string, header bool) (what string) {
	t.Helper()
	var files []string
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".wal") {
			files = append(files, path)
		}
		return err
	})
	rand.Shuffle(len(files), func(i, k int) { files[i], files[k] = files[k], files[i] })
	if header {
		slices.Sort(files)
		slices.Reverse(files)
	}
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		end := len(bytes.TrimRight(raw, "\x00"))
		entries := framesOf(raw[:end])
		if len(entries) < 20 {
			continue // nothing is written yet, or only a little
		}
		at, bit := rand.IntN(end), byte(1)<<rand.IntN(8)
		if header {
			at, bit = entries[len(entries)-1-rand.IntN(15)]+5, 8 // 2,048 bytes more, or less
		}
		what = fmt.Sprintf("bit %#x of byte %d of %d in %s, %s", bit, at, end, filepath.Base(path), frameAt(raw, at))
		raw[at] ^= bit
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return what
	}
	t.Fatalf("no file of the log in %s has content", dir)
	return ""
}

// framesOf returns the positions of the entries in a file of raft-wal: a header of 32 bytes, then
// frames with a header of eight bytes (type, reserved, length), padded to eight bytes.
func framesOf(raw []byte) (entries []int) {
	for pos := 32; pos+8 <= len(raw); pos += frameSize(raw[pos:]) {
		if raw[pos] == frameEntry {
			entries = append(entries, pos)
		}
	}
	return entries
}

// Types of the frames of raft-wal. A frame of a commit has no content.
const (
	frameEntry = 1
	frameIndex = 2
)

func frameSize(frame []byte) int {
	size := 8
	if frame[0] == frameEntry || frame[0] == frameIndex {
		size += (int(binary.LittleEndian.Uint32(frame[4:])) + 7) / 8 * 8
	}
	return size
}

// frameAt describes the byte at a position of a file of raft-wal.
func frameAt(raw []byte, at int) string {
	if at < 32 {
		return "in the header of the file"
	}
	pos, entry := 32, binary.LittleEndian.Uint64(raw[8:])
	for pos+8 <= len(raw) && at >= pos+frameSize(raw[pos:]) {
		if raw[pos] == frameEntry {
			entry++
		}
		pos += frameSize(raw[pos:])
	}
	return fmt.Sprintf("byte %d of a frame of type %d with %d bytes, near entry %d", at-pos, raw[pos], frameSize(raw[pos:]), entry)
}
