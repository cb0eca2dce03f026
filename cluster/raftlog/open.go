package raftlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/raft-wal/metadb"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
)

// Options describes where a log is.
type Options struct {
	// Dir is the data directory.
	Dir string
	// Disk holds the log; nil stores it in Dir.
	Disk Disk
	// SegmentBytes is the size of one file of the log, which is allocated in advance.
	SegmentBytes int
	// Fresh means that the node has acknowledged nothing yet, so that the log may be absent.
	Fresh bool
}

// Open opens the log. The caller verifies and closes it.
func Open(o Options) (*Log, error) {
	s := &Log{dir: o.Dir, fresh: o.Fresh, segmentBytes: o.SegmentBytes, writes: make(chan struct{}, 1), failed: make(chan struct{}, 1)}
	if o.Disk != nil {
		mark, err := o.Disk.OpenMark(o.Fresh)
		if err != nil {
			return nil, datadir.Damaged(o.Dir, fmt.Sprintf("the file %q, which holds the end of the log, cannot be opened: %v", datadir.LogEnd, err))
		}
		s.mark, s.files = mark, newWALFiles(o.Dir, o.Disk, o.Disk.Meta())
		if d, ok := o.Disk.(interface{ Free() (uint64, error) }); ok {
			s.free = d.Free
		}
		if err := s.openFirst(); err != nil {
			return nil, fmt.Errorf("open the log: %w", err)
		}
		return s, nil
	}
	walDir := filepath.Join(o.Dir, datadir.LogDir)
	if err := os.MkdirAll(walDir, 0o700); err != nil {
		return nil, fmt.Errorf("create the log's directory: %w", err)
	}
	flags := os.O_RDWR
	if o.Fresh {
		flags |= os.O_CREATE
	}
	mark, err := os.OpenFile(filepath.Join(o.Dir, datadir.LogEnd), flags, 0o600)
	if err != nil {
		return nil, s.noRoomOr(err, fmt.Sprintf("the file %q, which holds the end of the log, cannot be opened: %v", datadir.LogEnd, err))
	}
	s.mark, s.files = mark, newWALFiles(walDir, walFS(), &metadb.BoltMetaDB{})
	s.free = func() (uint64, error) { return freeBytes(walDir) }
	if err := s.openFirst(); err != nil {
		return nil, s.noRoomOr(err, fmt.Sprintf("the log in %q cannot be opened: %v", datadir.LogDir, err))
	}
	reserve(filepath.Join(walDir, metadb.FileName))
	return s, nil
}

// openFirst opens raft-wal as the process starts. If it returns an error, it has closed the files.
func (s *Log) openFirst() error {
	w, err := s.openWAL(!s.fresh)
	if err != nil {
		return errors.Join(err, s.files.release(), s.mark.Close())
	}
	s.wal.replace(w)
	if s.end, err = w.LastIndex(); err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
}

// noRoomOr returns an error that says whether the disk is full or the directory is damaged.
func (s *Log) noRoomOr(err error, what string) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk of the data directory %s is full: the next file of the replicated log takes %d MiB. Make room and start again; nothing is lost (%w)", s.dir, s.segmentBytes>>20, err)
	}
	return datadir.Damaged(s.dir, what)
}

// Close closes the files. It can be called again.
func (s *Log) Close() (err error) {
	s.closing.Do(func() {
		_ = s.mark.Sync() // a mark that is too low is safe, and finds less damage
		s.files.rotation.wait()
		err = s.wal.close()
		s.files.rotation.end() // of a change at the same time: raft-wal does not rotate when it is closed
		err = errors.Join(err, s.files.release(), s.mark.Close())
	})
	return err
}
