package logs

import (
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
		if l.removed { // and so are its files
			l.err = ErrNotFound
			return
		}
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
