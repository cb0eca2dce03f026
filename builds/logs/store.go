package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Errors of the store.
var (
	// ErrNotFound means that there is no such log.
	ErrNotFound = errors.New("log not found")
	// ErrMoved means that the log no longer has its owner on this node.
	ErrMoved = errors.New("the log continues on another node")
	// ErrDamaged means that the disk does not hold what was written.
	ErrDamaged = errors.New("the log is damaged")
	// ErrFenced means that the log has an owner of a greater epoch.
	ErrFenced = errors.New("the log has a newer owner")
	// ErrSealed means that the log is complete.
	ErrSealed = errors.New("the log is complete and accepts no more output")
	// ErrNoSpace means that the disk under the logs is full.
	ErrNoSpace = errors.New("the disk under the logs is full: free space, or move logs away")
	// ErrClosed means that the store is closed.
	ErrClosed = errors.New("the log store is closed")
)

// Key identifies the log of one attempt.
type Key struct {
	Build   string
	Attempt uint32
}

var validBuild = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

// Options configures a store.
type Options struct {
	// Dir is the directory of the segments. Open creates it if it is missing.
	Dir string
	// SegmentBytes is the size at which a new segment begins; 8 MiB if zero.
	SegmentBytes int64
	// MaxBytes is the limit of one log. Output beyond it is dropped after a line that says so. 256
	// MiB if zero.
	MaxBytes int64
	// SyncInterval is how long output is collected before it is fsynced; 5 ms if zero.
	SyncInterval time.Duration
	// Grown is called for each replicated log that has more durable bytes. It must not block. May
	// be nil.
	Grown func(Key)
	// Extended reports whether all nodes know the records and the appends of feature level 5:
	// incarnations of copies, and positions in the source. Nil means that they do.
	Extended func() bool
	// FS is the file system; that of the operating system if nil.
	FS         FS
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Store keeps logs in a directory. It is safe for concurrent use.
type Store struct {
	opts    Options
	fs      FS
	metrics metrics

	mu      sync.Mutex
	logs    map[Key]*attemptLog
	files   map[Key][]string // paths of the segments found by Open
	problem error            // of the last write; ErrNoSpace stays until Probe finds room
	// removing are the logs whose files are being removed. They cannot be opened until the channel
	// is closed.
	removing    map[Key]chan struct{}
	damaged     map[Key]error // damage that was found, until the log is removed
	moreDamaged chan struct{} // closed and replaced when damaged grows

	sync   syncer
	begins beginLocks
}

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
	s := &Store{opts: o, fs: o.FS, metrics: newMetrics(o.Registerer), logs: map[Key]*attemptLog{}, files: map[Key][]string{}, removing: map[Key]chan struct{}{}, damaged: map[Key]error{}, moreDamaged: make(chan struct{}), begins: newBeginLocks()}
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

// segmentName returns <build>.<attempt>.<index>.log: the byte order of names is the order of
// segments.
func segmentName(key Key, index uint64) string {
	return fmt.Sprintf("%s.%d.%08d.log", key.Build, key.Attempt, index)
}

func parseName(name string) (Key, bool) {
	parts := strings.Split(name, ".")
	if len(parts) != 4 || parts[3] != "log" || !validBuild.MatchString(parts[0]) {
		return Key{}, false
	}
	n, err := strconv.ParseUint(parts[1], 10, 32)
	return Key{parts[0], uint32(n)}, err == nil
}

// Close fsyncs pending output and stops the store. Waiting readers get ErrClosed.
func (s *Store) Close() error {
	s.sync.stop()
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

// get returns the log of a key and loads it if needed. If there is no such log, get creates it if
// create is set, and else returns ErrNotFound.
func (s *Store) get(key Key, create bool) (*attemptLog, error) {
	s.lockFor(key)
	l := s.logs[key]
	if l == nil {
		if !validBuild.MatchString(key.Build) || key.Attempt == 0 {
			s.mu.Unlock()
			return nil, fmt.Errorf("log of build %.64q attempt %d: %w", key.Build, key.Attempt, ErrNotFound)
		}
		if s.files[key] == nil && !create {
			s.mu.Unlock()
			return nil, ErrNotFound
		}
		l = &attemptLog{key: key, store: s, mu: newLock()}
		s.logs[key] = l
	}
	paths := s.files[key]
	s.mu.Unlock()
	l.load.Do(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.err = s.damage(key, l.scan(paths))
	})
	if l.err != nil && !errors.Is(l.err, ErrDamaged) { // the next read may succeed
		s.mu.Lock()
		if s.logs[key] == l {
			delete(s.logs, key)
		}
		s.mu.Unlock()
	}
	return l, l.err
}

// lockFor locks mu. If the files of the log are being removed, it waits for the end of that first.
func (s *Store) lockFor(key Key) {
	s.mu.Lock()
	for s.removing[key] != nil {
		done := s.removing[key]
		s.mu.Unlock()
		<-done
		s.mu.Lock()
	}
}

// Create returns a writer for the owner of a log at an epoch. It creates the log, or continues an
// existing one at its raw offset; see Writer.RawOffset. Only Show raises the watermark of a
// replicated log. Create returns ErrFenced if an owner of a greater epoch was here.
func (s *Store) Create(key Key, epoch uint64, r *Redactor, replicated bool) (*Writer, error) {
	l, err := s.get(key, true)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	w, err := l.newOwner(epoch, r)
	if err != nil {
		return nil, err
	}
	l.owner = w
	if w.replicated = replicated; !replicated {
		l.show(l.length)
	}
	return w, nil
}

// newOwner replaces and fences the former writer. The caller holds mu.
func (l *attemptLog) newOwner(epoch uint64, r *Redactor) (*Writer, error) {
	switch {
	case l.removed:
		return nil, ErrNotFound
	case l.sealed:
		return nil, ErrSealed
	case epoch < l.epoch:
		return nil, ErrFenced
	case epoch == l.epoch && l.end != noEnd:
		return nil, ErrSealed
	}
	if l.writer != nil {
		l.writer.fence()
	}
	w := newWriter(l, epoch, r)
	if epoch > l.epoch && len(l.segs) > 0 {
		w.append(record{kind: kindFence, payload: binary.BigEndian.AppendUint64(nil, epoch)})
	}
	l.epoch, l.end, l.held = epoch, noEnd, position{raw: noPosition}
	l.writer = w
	return w, nil
}

// Length returns the number of visible bytes, and whether the log is complete.
func (s *Store) Length(key Key) (length int64, sealed bool, err error) {
	l, err := s.get(key, false)
	if err != nil {
		return 0, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.removed {
		return 0, false, ErrNotFound
	}
	return l.visible, l.sealed, nil
}

// Keys returns all logs on the disk and those with a writer.
func (s *Store) Keys() []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := map[Key]bool{}
	for k := range s.files {
		set[k] = true
	}
	for k := range s.logs {
		set[k] = true
	}
	keys := make([]Key, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	return keys
}

// Remove deletes a log. Its readers get ErrNotFound. Removing a missing log does nothing.
func (s *Store) Remove(key Key) error {
	s.lockFor(key)
	return s.remove(key)
}

// RemoveDamaged deletes a log if it is still damaged: another copy may have replaced it in the
// meantime.
func (s *Store) RemoveDamaged(key Key) error {
	s.lockFor(key)
	if s.damaged[key] == nil {
		s.mu.Unlock()
		return nil
	}
	return s.remove(key)
}

// remove deletes a log. The caller holds mu, which remove releases.
func (s *Store) remove(key Key) error {
	l, paths := s.logs[key], s.files[key]
	delete(s.logs, key)
	delete(s.files, key)
	delete(s.damaged, key)
	done := make(chan struct{})
	s.removing[key] = done
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.removing, key)
		s.mu.Unlock()
		close(done)
	}()
	if l != nil {
		l.mu.Lock()
		l.removed = true
		if l.writer != nil {
			l.writer.fence()
			s.sync.dirty(l.writer, true) // the next flush closes its file
		}
		for _, seg := range slices.Concat(l.segs, l.rest) {
			if !slices.Contains(paths, seg.path) {
				paths = append(paths, seg.path)
			}
		}
		l.wake()
		l.mu.Unlock()
	}
	var errs error
	for _, p := range paths {
		if err := s.fs.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = errors.Join(errs, fmt.Errorf("remove a log: %w", err))
		}
	}
	return errs
}

// Trouble returns the reason why logs cannot be written; nil if the last write succeeded.
func (s *Store) Trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// probeBytes is the free space that Probe requires on a full disk before logs are written again.
const probeBytes = 1 << 20

// Probe writes, fsyncs and removes a file of probeBytes. The result becomes that of Trouble.
func (s *Store) Probe() {
	path := filepath.Join(s.opts.Dir, "probe")
	f, err := s.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.WriteAt(make([]byte, probeBytes), 0)
		err = errors.Join(err, f.Sync(), f.Close(), s.fs.Remove(path))
	}
	s.setProblem(spaceError(err))
}

func (s *Store) setProblem(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = err
}

// wrote records that a write succeeded. It does not clear ErrNoSpace, because a few bytes may find
// room where a log does not: only Probe ends that.
func (s *Store) wrote() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !errors.Is(s.problem, ErrNoSpace) {
		s.problem = nil
	}
}

// spaceError wraps the error of a full disk in ErrNoSpace.
func spaceError(err error) error {
	if errors.Is(err, ErrNoSpace) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w (%w)", ErrNoSpace, err)
	}
	return err
}
