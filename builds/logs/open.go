package logs

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Open lists a directory of logs and starts the goroutine that fsyncs. A log is read at its first
// use. The caller closes the store.
func Open(o Options) (*Store, error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 8 << 20
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 20
	}
	if o.SyncInterval == 0 {
		o.SyncInterval = 5 * time.Millisecond
	}
	if o.Extended == nil {
		o.Extended = func() bool { return true }
	}
	if o.FS == nil {
		o.FS = diskFS{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the directory of logs: %w", err)
	}
	names, err := o.FS.List(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("list the directory of logs: %w", err)
	}
	s := &Store{
		opts: o, fs: o.FS, metrics: newMetrics(o.Registerer), begins: newBeginLocks(), reads: newDiskReads(),
		logs: map[Key]*attemptLog{}, files: map[Key][]string{}, removing: map[Key]chan struct{}{},
		damaged: map[Key]error{}, moreDamaged: make(chan struct{}),
	}
	slices.Sort(names)
	for _, name := range names {
		if key, ok := parseName(name); ok {
			s.files[key] = append(s.files[key], filepath.Join(o.Dir, name))
		}
	}
	s.watch(o.Registerer)
	s.sync.start(s)
	return s, nil
}

// Close fsyncs pending output and stops the store. Waiting readers get ErrClosed.
func (s *Store) Close() error {
	s.sync.stop()
	s.reads.close()
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.logs))
	s.mu.Unlock() // lock order: a log's mu before the store's
	for _, l := range all {
		l.mu.Lock()
		if l.writer != nil {
			l.writer.closeFile()
		}
		l.wake()
		l.mu.Unlock()
	}
	return nil
}
