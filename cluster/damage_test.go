package cluster_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// filled returns a closed data directory that holds a snapshot and commands after it.
func filled(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cfg := fastConfig(dir, &tally{})
	cfg.TrailingLogs = 5
	n := open(t, cfg)
	for v := range uint64(30) {
		put(t, n, v)
	}
	if err := n.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	for v := range uint64(30) {
		put(t, n, 30+v)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func one(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("no file like %s", pattern)
	}
	return found[len(found)-1]
}

// Test_Damage_IsRefused damages one file at a time. A node must refuse to start rather than start
// with less than it has acknowledged.
func Test_Damage_IsRefused(t *testing.T) {
	segment := func(dir string) string { return one(t, filepath.Join(dir, "wal", "*.wal")) }
	flip := func(path string, at int) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		raw[at] ^= 0x40
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	whole := filled(t)
	for name, spoil := range map[string]func(dir string){
		"identity missing":   func(d string) { os.Remove(filepath.Join(d, "identity.json")) },
		"identity garbled":   func(d string) { os.WriteFile(filepath.Join(d, "identity.json"), []byte("{"), 0o600) },
		"wal missing":        func(d string) { os.RemoveAll(filepath.Join(d, "wal")) },
		"mark missing":       func(d string) { os.Remove(filepath.Join(d, "written")) },
		"mark empty":         func(d string) { os.Truncate(filepath.Join(d, "written"), 0) },
		"mark flipped":       func(d string) { flip(filepath.Join(d, "written"), 3) },
		"meta emptied":       func(d string) { os.Truncate(one(t, filepath.Join(d, "wal", "*.db")), 0) },
		"segment emptied":    func(d string) { os.Truncate(segment(d), 0) },
		"segment cut":        func(d string) { os.Truncate(segment(d), 3000) },
		"snapshots missing":  func(d string) { os.RemoveAll(filepath.Join(d, "snapshots")) },
		"snapshot cut":       func(d string) { os.Truncate(one(t, filepath.Join(d, "snapshots", "*", "state.bin")), 40) },
		"snapshot flipped":   func(d string) { flip(one(t, filepath.Join(d, "snapshots", "*", "state.bin")), 60) },
		"snapshot meta gone": func(d string) { os.Remove(one(t, filepath.Join(d, "snapshots", "*", "meta.json"))) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			spoil(dir)
			n, err := tryOpen(t, fastConfig(dir, &tally{}))
			if err == nil {
				n.Close()
				t.Fatal("the node started")
			}
			if !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), "empty the directory and start the node") {
				t.Errorf("the error does not say what to do: %v", err)
			}
		})
	}
}

// Test_Damage_AnyFlippedByte flips bytes all over the newest segment of the log. The node either
// refuses to start or has everything that was acknowledged.
func Test_Damage_AnyFlippedByte(t *testing.T) {
	dir := filled(t)
	path := one(t, filepath.Join(dir, "wal", "*.wal"))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	end := len(good)
	for end > 0 && good[end-1] == 0 {
		end--
	}
	refused := 0
	for at := 0; at < end; at += 197 {
		// Use a copy each time: when raft-wal fails to open, it keeps its files locked.
		spoiled := filepath.Join(t.TempDir(), "node")
		if out, err := exec.Command("cp", "-r", "--sparse=always", dir, spoiled).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		f, err := os.OpenFile(one(t, filepath.Join(spoiled, "wal", "*.wal")), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{good[at] ^ 0x10}, int64(at)); err != nil {
			t.Fatal(err)
		}
		f.Close()
		sm := &tally{}
		n, err := tryOpen(t, fastConfig(spoiled, sm))
		if err != nil {
			refused++
			continue
		}
		put(t, n, 60)
		if got := sm.values(); len(got) != 61 {
			t.Errorf("byte %d flipped: the node started with %d values of 61", at, len(got))
		}
		n.Close()
	}
	t.Logf("%d flips refused", refused)
	if refused == 0 {
		t.Error("no flipped byte was detected")
	}
}

// Test_FirstStart_KilledMayBeginAgain starts on the remains of a first start that was killed.
// Nothing was acknowledged then, so the node must start with an empty state.
func Test_FirstStart_KilledMayBeginAgain(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "identity.json"), []byte(`{"name":"n1","store_id":"0123","initialized":false}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	n := open(t, fastConfig(dir, &tally{}))
	put(t, n, 1)
	if n.StoreID() != "0123" {
		t.Errorf("store id %s", n.StoreID())
	}
}

const killDir = "CLUSTER_TEST_KILL_DIR"

// writeUntilKilled is the process that Test_Kill kills. It prints each acknowledged index.
func writeUntilKilled() bool {
	dir := os.Getenv(killDir)
	if dir == "" {
		return false
	}
	sm := &tally{}
	t := &testing.T{}
	n, err := tryOpen(background{t}, fastConfig(dir, sm))
	if err != nil {
		fmt.Println("error", err)
		return true
	}
	for v := uint64(len(sm.values())); ; v++ {
		res, err := n.Propose(background{t}.Context(), value(v))
		if err != nil {
			fmt.Println("error", err)
			return true
		}
		fmt.Println(res.Index)
		tear(res.Index)
	}
}

// Test_Kill kills a node with SIGKILL again and again. After each kill, every acknowledged command
// must be there.
func Test_Kill(t *testing.T) {
	dir := t.TempDir()
	var last uint64
	for round := range testkit.InSoak(8, 4) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; n < 50+37*round && lines.Scan(); n++ {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
			index, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			if index <= last {
				t.Fatalf("index %d after %d was acknowledged", index, last)
			}
			last = index
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // lines that were printed before the kill
			if index, err := strconv.ParseUint(lines.Text(), 10, 64); err == nil {
				last = index
			}
		}
		_ = cmd.Wait()
	}
	sm := &tally{}
	n := open(t, fastConfig(dir, sm))
	if err := n.WaitApplied(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if len(sm.values()) == 0 || n.Applied() < last {
		t.Errorf("applied %d, acknowledged %d", n.Applied(), last)
	}
}

// background is a testing.TB for use outside of a test.
type background struct{ testing.TB }

func (background) Context() context.Context { return context.Background() }

// Test_Damage_InAnOldSegment flips a bit in a full file of the log. raft-wal does not read such
// files when it opens the log.
func Test_Damage_InAnOldSegment(t *testing.T) {
	dir := t.TempDir()
	cfg := fastConfig(dir, &tally{})
	cfg.SegmentBytes = 4 << 10
	cfg.SnapshotThreshold = 1 << 20
	n := open(t, cfg)
	for v := range uint64(200) {
		put(t, n, v)
	}
	n.Close()
	files, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(files) < 3 {
		t.Fatalf("the log has %d files, %v", len(files), err)
	}
	raw, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	spoiled := false
	for at := len(raw) / 2; at < len(raw); at++ {
		if raw[at] != 0 {
			raw[at] ^= 0x10
			spoiled = true
			break
		}
	}
	if err := os.WriteFile(files[1], raw, 0o600); err != nil || !spoiled {
		t.Fatal(err, spoiled)
	}
	n, err = tryOpen(t, cfg)
	if err == nil {
		n.Close()
		t.Fatal("the node started")
	}
	if !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("the error does not say what is wrong: %v", err)
	}
}
