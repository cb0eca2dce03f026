//go:build faults

package deploytest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

var scenes = []scene{
	{"nodes", threeNodes, []fault{
		{"one node of three is killed", []string{"ImageBuilderNodeDown", "ImageBuilderNoTolerance"}, killOne},
		{"two nodes of three are killed, and clients keep calling", []string{"ImageBuilderNoLeader", "ImageBuilderUnavailable"}, killTwo},
		{"all nodes are killed", []string{"ImageBuilderAbsent"}, killAll},
	}},
	{"leadership", threeNodes, []fault{
		{"a node of another cluster is scraped under the same job and namespace", []string{"ImageBuilderTwoLeaders"}, twoClusters},
		{"the clock of whichever node leads is half a minute behind", []string{"ImageBuilderLeaderUnstable"}, wrongClocks},
	}},
	{"states", threeNodes, []fault{
		{"a field of the state of one node is changed, and clients keep calling", []string{"ImageBuilderStateReplaced"}, wrongState},
		{"each node gets another change of its state, and clients keep calling", []string{"ImageBuilderStateDiverged"}, differentStates},
	}},
	{"one node", oneNode, []fault{
		{"a node is killed and started four times", []string{"ImageBuilderRestarts"}, restarts},
		{"a client opens connections until the node has nearly no file descriptors", []string{"ImageBuilderFileDescriptors"}, descriptors},
	}},
	{"damage", oneNode, []fault{
		{"a file of a build's log is damaged, and clients read it", []string{"ImageBuilderErrors", "ImageBuilderLogDamaged"}, damagedLog},
	}},
	{"queue", queueWorld, []fault{
		{"all nodes are drained while a build waits", []string{"ImageBuilderQueueStands"}, drainAll},
		{"the registry takes no uploads, and clients keep calling", []string{"ImageBuilderQueueGrows"}, holdUploads},
	}},
	{"registry", oneNode, []fault{
		{"the registry refuses pushes", []string{"ImageBuilderBuildsFail"}, refusePushes},
	}},
	{"slow registry", oneNode, []fault{
		{"the registry takes seven seconds for each manifest", []string{"ImageBuilderSlowStatus"}, slowManifests},
	}},
	{"full disks", diskWorld, []fault{
		{"the disk under the logs of a node fills up", []string{"ImageBuilderLogDiskFills"}, fillingDisk},
		{"the disks under the logs of two nodes of three are full while a build writes", []string{"ImageBuilderLogDiskFills", "ImageBuilderLogDiskFull", "ImageBuilderLogsNotCopied"}, fullDisks},
	}},
	{"nearly full disk", raftDiskWorld, []fault{
		{"the disk under the replicated log of a follower is nearly full", []string{"ImageBuilderRaftDiskFull"}, fullRaftDisk},
	}},
	{"slow disks", slowWorld, []fault{
		{"the disks of the other nodes need three seconds for an fsync while a build writes 20 MB", []string{"ImageBuilderLogCopyTrails"}, slowCopies},
		{"the disk of the node that runs a build needs 0.7 seconds for an fsync", []string{"ImageBuilderLogSyncSlow"}, slowOwner},
		{"the disk of a follower needs two seconds for each write of the replicated log", []string{"ImageBuilderNodeBehind"}, slowFollower},
	}},
}

func threeNodes(t *testing.T) *world { return newWorld(t, 3, nil, nil) }

func oneNode(t *testing.T) *world { return newWorld(t, 1, nil, nil) }

func (w *world) kill(nodes ...*harness.Node) damage {
	for _, n := range nodes {
		n.Kill()
	}
	return damage{nodes: nodes, undo: func() {
		for _, n := range nodes {
			n.Launch()
		}
		for _, n := range nodes {
			n.AwaitReady()
		}
	}}
}

func killOne(w *world) damage { return w.kill(w.Others(w.Leader())[0]) }

func killAll(w *world) damage { return w.kill(w.Nodes...) }

func killTwo(w *world) damage {
	w.push(1)
	lead := w.Leader()
	others := w.Others(lead)
	d := w.kill(lead, others[0])
	stop := w.clients(2, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, _ = others[1].Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{Requester: "r", Source: harness.RefSource(w.refs[0])})
	})
	restart := d.undo
	d.undo = func() { stop(); restart() }
	return d
}

// clients starts n goroutines that run call in a loop. stop ends them and waits for them.
func (w *world) clients(n int, call func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				call(ctx)
				select { // no busy loop if a call fails at once
				case <-ctx.Done():
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	w.t.Cleanup(stop)
	return stop
}

func twoClusters(w *world) damage {
	other := harness.Start(w.t, w.reg.Addr, nil)
	w.scrape(append([]*harness.Node{other}, w.Nodes...)...)
	return damage{undo: func() { w.scrape(w.Nodes...); other.Stop() }}
}

func wrongClocks(w *world) damage {
	hurt := map[*harness.Node]bool{}
	return damage{again: func() {
		for _, n := range w.Nodes {
			body, _ := n.Get("http://" + n.Metrics + "/metrics")
			leads := strings.Contains(body, "\nimage_builder_leader 1\n")
			switch {
			case leads && !hurt[n]:
				n.Hurt(map[string]any{"clock_offset": -30 * time.Second})
			case !leads && hurt[n]:
				n.Hurt(map[string]any{})
			}
			hurt[n] = leads
		}
	}, undo: func() {
		for _, n := range w.Nodes {
			n.Hurt(map[string]any{})
		}
	}}
}

func restarts(w *world) damage {
	n := w.Nodes[0]
	for i := range 4 {
		n.Kill()
		n.Run()
		testkit.Eventually(w.t, time.Minute, "the new process is scraped", func() bool {
			return int(w.prom.value("changes(process_start_time_seconds[5m])")) == i+1
		})
	}
	return damage{nodes: w.Nodes, undo: func() {}}
}

func descriptors(w *world) damage {
	n := w.Nodes[0]
	var was unix.Rlimit
	if err := unix.Prlimit(n.Pid(), unix.RLIMIT_NOFILE, nil, &was); err != nil {
		w.t.Fatal(err)
	}
	few := unix.Rlimit{Cur: 300, Max: was.Max}
	if err := unix.Prlimit(n.Pid(), unix.RLIMIT_NOFILE, &few, nil); err != nil {
		w.t.Fatal(err)
	}
	var open []net.Conn
	closeAll := func() {
		for _, c := range open {
			_ = c.Close()
		}
		open = nil
	}
	w.t.Cleanup(closeAll)
	used := func() int {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.Pid()))
		if err != nil {
			w.t.Fatal(err)
		}
		return len(fds)
	}
	testkit.Eventually(w.t, time.Minute, "the node has nearly no file descriptors left", func() bool {
		if used() > 270 {
			return true
		}
		c, err := net.Dial("tcp", n.GRPC)
		if err != nil {
			w.t.Fatal(err)
		}
		open = append(open, c)
		return false
	})
	return damage{nodes: w.Nodes, undo: func() {
		closeAll()
		if err := unix.Prlimit(n.Pid(), unix.RLIMIT_NOFILE, &was, nil); err != nil {
			w.t.Fatal(err)
		}
	}}
}

// damagedLog overwrites the beginning of each log file of a build.
func damagedLog(w *world) damage {
	n := w.Nodes[0]
	w.push(1)
	id := w.build()
	n.Wait(w.t, w.t.Context(), id)
	n.Stop()
	files, err := filepath.Glob(filepath.Join(n.Dir, "data", "logs", "*"))
	if err != nil || len(files) == 0 {
		w.t.Fatalf("no files of logs: %v", err)
	}
	whole := map[string][]byte{}
	write := func(f string, b []byte) {
		if err := os.WriteFile(f, b, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			w.t.Fatal(err)
		}
		whole[f] = raw
		write(f, append([]byte("damaged, damaged"), raw[min(16, len(raw)):]...))
	}
	n.Run()
	stop := w.clients(1, func(ctx context.Context) { _, _ = n.ReadLog(ctx, id, 1) })
	return damage{nodes: []*harness.Node{n}, undo: func() {
		stop()
		n.Stop()
		for f, raw := range whole {
			write(f, raw)
		}
		n.Run()
	}}
}

// push pushes n new images to the registry.
func (w *world) push(n int) {
	w.t.Helper()
	for range n {
		w.made++
		name := fmt.Sprintf("team/app:%d", w.made)
		w.reg.Push(w.t, name, registrytest.RandomImage(w.t, 1, 1<<10))
		w.refs = append(w.refs, w.proxy.Addr+"/"+name)
	}
}

// build requests a build of the next image and returns its id.
func (w *world) build() (id string) {
	w.t.Helper()
	if len(w.refs) == 0 {
		w.t.Fatal("there is a build of each image already")
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	res, err := w.Nodes[0].Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
		Requester: fmt.Sprint("r", len(w.refs)%7), Source: harness.RefSource(w.refs[0]), Force: true,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.refs = w.refs[1:]
	return res.Build.Id
}

func queueWorld(t *testing.T) *world {
	return newWorld(t, 1, harness.Config{"builds": map[string]any{"runningPerNode": 2}}, nil)
}

func drainAll(w *world) damage {
	drain := func(undo bool) {
		for _, n := range w.Nodes {
			if _, err := w.Nodes[0].Operator().DrainNode(w.t.Context(), &imagebuilderv1.DrainNodeRequest{Node: n.Name, Undrain: undo}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	drain(false)
	w.push(1)
	w.build()
	return damage{undo: func() { drain(true) }}
}

func holdUploads(w *world) damage {
	release := w.proxy.Hold(registrytest.Uploads)
	w.push(110)
	for range 110 {
		w.build()
	}
	return damage{again: func() { w.push(1); w.build() }, undo: release}
}

func refusePushes(w *world) damage {
	w.proxy.Fail(registrytest.Uploads, -1, http.StatusForbidden)
	return damage{again: func() { w.push(1); w.build() }, undo: w.proxy.Heal}
}

func slowManifests(w *world) damage {
	w.proxy.On(registrytest.Manifests, -1, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		select {
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		case <-time.After(7 * time.Second):
			next.ServeHTTP(rw, r)
		}
	})
	var mu sync.Mutex
	calls := 0
	stop := w.clients(8, func(ctx context.Context) {
		mu.Lock()
		calls++
		ref := fmt.Sprintf("%s/team/slow:%d", w.proxy.Addr, calls)
		mu.Unlock()
		_, _ = w.Nodes[0].Native.ResolveBaseImage(ctx, &imagebuilderv1.ResolveBaseImageRequest{Ref: ref})
	})
	return damage{undo: func() { w.proxy.Heal(); stop() }}
}

// scripted makes builds run a script before they copy an image. $D is a folder in which the test
// creates files.
func scripted(script string) func(*world) {
	return func(w *world) {
		for _, n := range w.Nodes {
			n.Env = []string{"IMAGE_BUILDER_TEST_RUNTIME=" + w.t.TempDir(), "IMAGE_BUILDER_TEST_SCRIPT=D=" + w.dir + "\n" + script}
		}
	}
}

// line prints a hundred bytes ten times a second, until the test signals "enough".
const line = "while [ ! -e $D/enough ]; do printf '%099d\\n' 1; sleep 0.1; done"

// signal writes a file that scripts wait for.
func (w *world) signal(name string) { writeFile(w.t, filepath.Join(w.dir, name), "") }

func mount(t *testing.T, path, size string, flags uintptr) {
	t.Helper()
	if err := syscall.Mount("tmpfs", path, "tmpfs", flags, "size="+size); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
}

// diskWorld starts three nodes that each have a file system for logs.
func diskWorld(t *testing.T) *world { return newWorld(t, 3, nil, disksAt(t, "logs")) }

// raftDiskWorld starts three nodes that each have a file system for the replicated log.
func raftDiskWorld(t *testing.T) *world { return newWorld(t, 3, nil, disksAt(t, "raft")) }

// disksAt mounts a file system at a directory of each node's data directory.
func disksAt(t *testing.T, dir string) func(*world) {
	return func(w *world) {
		scripted(line)(w)
		for _, n := range w.Nodes {
			path := filepath.Join(n.Dir, "data", dir)
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
			mount(t, path, "3g", 0)
			t.Cleanup(func() {
				if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// fullRaftDisk leaves 100 MiB, which is less than two files of the replicated log take.
func fullRaftDisk(w *world) damage {
	n := w.Others(w.Leader())[0]
	disk := filepath.Join(n.Dir, "data", "raft")
	var st syscall.Statfs_t
	if err := syscall.Statfs(disk, &st); err != nil {
		w.t.Fatal(err)
	}
	used := (st.Blocks - st.Bfree) * uint64(st.Bsize)
	mount(w.t, disk, fmt.Sprint(used+100<<20), syscall.MS_REMOUNT)
	return damage{nodes: []*harness.Node{n}, undo: func() { mount(w.t, disk, "3g", syscall.MS_REMOUNT) }}
}

// fillingDisk writes 12 MB a second to a disk of 3 GB. There is free space, but not for long.
func fillingDisk(w *world) damage {
	n := w.Nodes[2]
	path := filepath.Join(n.Dir, "data", "logs", "filler")
	f, err := os.Create(path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = f.Close() })
	began, block, size := time.Now(), make([]byte, 1<<20), 0
	return damage{nodes: []*harness.Node{n}, again: func() {
		for ; size < int(12*time.Since(began).Seconds()); size++ {
			if _, err := f.Write(block); err != nil {
				w.t.Fatal(err)
			}
		}
	}, undo: func() {
		_ = f.Close()
		if err := os.Remove(path); err != nil {
			w.t.Fatal(err)
		}
	}}
}

func fullDisks(w *world) damage {
	w.push(1)
	// Wait until the build runs: the leader may assign a build to a node before the node reports
	// that its disk is full.
	full := w.Others(w.owner(w.build()))
	for _, n := range full {
		disk := filepath.Join(n.Dir, "data", "logs")
		mount(w.t, disk, "16m", syscall.MS_REMOUNT)
		f, err := os.Create(filepath.Join(disk, "filler"))
		if err != nil {
			w.t.Fatal(err)
		}
		block := make([]byte, 1<<20)
		for size := len(block); size > 0; {
			if _, err := f.Write(block[:size]); err != nil {
				size /= 2
			}
		}
		if err := f.Close(); err != nil {
			w.t.Fatal(err)
		}
	}
	return damage{nodes: full, undo: func() {
		for _, n := range full {
			disk := filepath.Join(n.Dir, "data", "logs")
			mount(w.t, disk, "3g", syscall.MS_REMOUNT)
			if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
				w.t.Fatal(err)
			}
		}
	}}
}

func slowWorld(t *testing.T) *world {
	return newWorld(t, 3, nil, scripted("while [ ! -e $D/burst ]; do sleep 0.1; done; head -c 20000000 /dev/zero | tr '\\0' x | fold -w 99\n"+line))
}

// owner waits until a node runs the build, and returns this node.
func (w *world) owner(id string) (owner *harness.Node) {
	w.t.Helper()
	testkit.Eventually(w.t, time.Minute, "a node runs the build", func() bool {
		res, err := w.Nodes[0].Native.BuildStatus(w.t.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
		if a := res.GetBuild().GetAttempts(); err == nil && len(a) > 0 && res.Build.Phase == imagebuilderv1.Phase_PHASE_RUNNING {
			for _, n := range w.Nodes {
				if n.Name == a[len(a)-1].Owner {
					owner = n
				}
			}
		}
		return owner != nil
	})
	return owner
}

func slowCopies(w *world) damage {
	w.push(1)
	others := w.Others(w.owner(w.build()))
	for _, n := range others {
		n.Hurt(map[string]any{"log_delay": 3 * time.Second})
	}
	w.signal("burst")
	return damage{nodes: others, undo: func() {
		for _, n := range others {
			n.Hurt(map[string]any{})
		}
	}}
}

func slowOwner(w *world) damage {
	w.push(1)
	owner := w.owner(w.build())
	owner.Hurt(map[string]any{"log_delay": 700 * time.Millisecond})
	return damage{nodes: []*harness.Node{owner}, undo: func() { owner.Hurt(map[string]any{}); w.signal("enough") }}
}

func slowFollower(w *world) damage {
	lead := w.Leader()
	slow := w.Others(lead)[0]
	slow.Hurt(map[string]any{"disk_delay": 2 * time.Second})
	stop := w.commands(lead)
	return damage{nodes: []*harness.Node{slow}, undo: func() { stop(); slow.Hurt(map[string]any{}) }}
}

// commands makes clients send a cheap command to a node, some hundreds a second.
func (w *world) commands(to *harness.Node) (stop func()) {
	operator := imagebuilderv1.NewImageBuilderClient(to.OperatorConn())
	return w.clients(8, func(ctx context.Context) {
		for range 20 {
			_, _ = operator.SetCacheInterval(ctx, &imagebuilderv1.SetCacheIntervalRequest{Interval: durationpb.New(time.Hour)})
		}
	})
}

func wrongState(w *world) damage {
	lead := w.Leader()
	n := w.Others(lead)[0]
	n.Hurt(map[string]any{"diverge": 3}) // the zone of a node
	return damage{nodes: []*harness.Node{n}, undo: w.commands(lead)}
}

// differentStates changes the zone of another node in the state of each node. A snapshot of before
// makes the states equal again.
func differentStates(w *world) damage {
	lead := w.Leader()
	saved, err := lead.Operator().SaveSnapshot(w.t.Context(), &imagebuilderv1.SaveSnapshotRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	var parts []*imagebuilderv1.RestoreSnapshotRequest
	for {
		m, err := saved.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			w.t.Fatal(err)
		}
		parts = append(parts, &imagebuilderv1.RestoreSnapshotRequest{Chunk: m.Chunk})
	}
	for i, n := range w.Nodes { // each node makes its change with the next command
		n.Hurt(map[string]any{"diverge": 3 + 6*i})
	}
	stop := w.commands(lead)
	return damage{undo: func() {
		stop()
		stream, err := w.Leader().Operator().RestoreSnapshot(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, p := range parts {
			if err := stream.Send(p); err != nil {
				w.t.Fatal(err)
			}
		}
		if _, err := stream.CloseAndRecv(); err != nil {
			w.t.Fatal(err)
		}
	}}
}
