package logs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cespare/xxhash/v2"
)

// get returns the log of a key and loads it if needed. If there is no such log, get creates it if
// create is set, and else returns ErrNotFound.
func (s *Store) get(key Key, create bool) (*attemptLog, error) {
	return s.getContext(context.Background(), key, create)
}

// getContext is like get. It returns the error of ctx if the disk does not respond until ctx ends.
func (s *Store) getContext(ctx context.Context, key Key, create bool) (*attemptLog, error) {
	if err := s.lockFor(ctx, key); err != nil {
		return nil, err
	}
	l, exists := s.logs[key], s.files[key] != nil
	s.mu.Unlock()
	if l == nil {
		if !validBuild.MatchString(key.Build) || key.Attempt == 0 {
			return nil, fmt.Errorf("log of build %.64q attempt %d: %w", key.Build, key.Attempt, ErrNotFound)
		}
		if !exists && !create {
			return nil, ErrNotFound
		}
		var opened *attemptLog
		if err := s.reads.do(ctx, func() { opened = s.open(key, create) }, func() {}); err != nil {
			return nil, err
		}
		if l = opened; l == nil { // it was removed in the meantime
			return nil, ErrNotFound
		}
	}
	select {
	case <-l.loaded:
		return l, l.err
	default:
	}
	select {
	case <-l.loaded:
		return l, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// open adds a log to the store and reads it from the disk. It does nothing if another caller has
// added the log. It returns nil if there is no such log, unless create is set.
func (s *Store) open(key Key, create bool) *attemptLog {
	_ = s.lockFor(context.Background(), key)
	l, paths := s.logs[key], s.files[key]
	if l != nil || paths == nil && !create {
		s.mu.Unlock()
		return l
	}
	l = &attemptLog{key: key, store: s, mu: newLock(), loaded: make(chan struct{})}
	s.logs[key] = l
	s.mu.Unlock()
	defer close(l.loaded)
	l.mu.Lock()
	if l.err = ErrNotFound; !l.removed { // else its files are removed too
		l.err = l.damage(l.scan(paths))
	}
	l.mu.Unlock()
	if l.err != nil && !errors.Is(l.err, ErrDamaged) { // the next read may succeed
		s.mu.Lock()
		if s.logs[key] == l {
			delete(s.logs, key)
		}
		s.mu.Unlock()
	}
	return l
}

// lockFor locks mu. If the files of the log are being removed, it waits for the end of that first,
// at most until ctx ends. It returns the error of ctx without the lock.
func (s *Store) lockFor(ctx context.Context, key Key) error {
	s.mu.Lock()
	for s.removing[key] != nil {
		done := s.removing[key]
		s.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.mu.Lock()
	}
	return nil
}

// scan reads the segments of a log. An unreadable end of the last segment was never fsynced; the
// next writer cuts it. Anywhere else it is damage.
func (l *attemptLog) scan(paths []string) error {
	l.sum, l.end = xxhash.New(), noEnd
	for i, path := range paths {
		seg, err := l.scanSegment(path)
		if errors.Is(err, errTorn) && i == len(paths)-1 {
			err = nil
		}
		if disk := (*fs.PathError)(nil); errors.As(err, &disk) && !isUnreadable(err) { // the next read may succeed
			return fmt.Errorf("log segment %s: %w", filepath.Base(path), err)
		}
		if err != nil {
			return fmt.Errorf("log segment %s: %w: %w", filepath.Base(path), ErrDamaged, err)
		}
		if seg != nil {
			l.segs = append(l.segs, seg)
		}
	}
	if l.sealed {
		l.visible = l.length
	}
	return nil
}

func (l *attemptLog) scanSegment(path string) (*segment, error) {
	f, err := l.store.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, headerSize)
	if n, err := f.ReadAt(head, 0); n < headerSize {
		if errors.Is(err, io.EOF) {
			return nil, errTorn // a crash during its creation
		}
		return nil, err
	}
	h, err := decodeHeader(head)
	if err != nil {
		return nil, err
	}
	if int64(h.offset) != l.length || int64(h.raw) != l.raw {
		return nil, fmt.Errorf("it begins at offset %d, but the segment before ends at %d", h.offset, l.length)
	}
	seg := &segment{path: path, header: h, size: headerSize}
	l.epoch = max(l.epoch, h.epoch)
	for {
		r, next, err := readRecord(f, seg.size)
		if errors.Is(err, io.EOF) {
			return seg, nil
		}
		if err != nil {
			return seg, err
		}
		seg.note(l.length, seg.size)
		l.account(r)
		seg.size = next
	}
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
