package cluster

import (
	"errors"
	"time"
)

// SetWriteStart makes the log look as if a write had been in progress since t, or as if there were
// none if t is zero.
func (n *Node) SetWriteStart(t time.Time) {
	if t.IsZero() {
		n.logs.writeStart.Store(nil)
	} else {
		n.logs.writeStart.Store(&t)
	}
}

// LogStore is the replicated log on a disk.
type LogStore = logStore

// OpenLogStore opens and verifies the log on disk.
func OpenLogStore(dir string, disk Disk, segmentBytes int, fresh bool) (*LogStore, error) {
	s, err := openLogStore(dir, disk, segmentBytes, fresh)
	if err != nil {
		return nil, err
	}
	if fresh {
		err = s.syncMark(0)
	} else {
		var first uint64
		if first, err = s.FirstIndex(); err == nil { // a snapshot ends before the first entry
			_, err = s.verify(dir, max(first, 1)-1, true)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// Close closes the log.
func (s *logStore) Close() error { return s.close() }
