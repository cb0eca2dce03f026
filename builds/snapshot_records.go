package builds

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// snapshotFormat is the version of the layout of snapshots.
const snapshotFormat = 1

// maxSnapshotRecord is the maximum size of one record, in bytes. It limits how much memory a
// damaged length can make the reader allocate.
const maxSnapshotRecord = 64 << 20

// header returns the part of the state that is in no table, with the number of records.
func (s *State) header() *buildsv1.SnapshotHeader {
	return &buildsv1.SnapshotHeader{
		Format:       snapshotFormat,
		Index:        s.index,
		TimeUnixNano: s.time,
		FeatureLevel: s.level,
		Records:      uint64(s.builds.Len() + s.requests.Len() + s.cached.Len() + s.nodes.Len()),
		Settings:     s.settings,
		Cache:        s.cacheConfig,
	}
}

const (
	// batchRecords and batchBytes limit the records that are decoded at once.
	batchRecords = 256
	batchBytes   = 256 << 10
	// maxDecoders limits how many processors decode a snapshot. One more fills the tables.
	maxDecoders = 4
)

// decoders returns how many goroutines decode a snapshot.
func decoders() int { return min(runtime.GOMAXPROCS(0), maxDecoders) }

// encodedRecords are consecutive records of a snapshot.
type encodedRecords struct {
	first uint64              // number of the first one, from 0
	data  []byte              // the records, one after the other
	ends  []int               // in data
	err   error               // the record after the last one cannot be read
	done  chan decodedRecords // capacity 1

	buffer *[]byte // for data, from batchBuffers
}

// batchBuffers has pointers to byte slices.
var batchBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, 2*batchBytes)
	return &b
}}

// decodedRecords are the same records. The entries of ended builds are packed.
type decodedRecords struct {
	first   uint64
	records []*buildsv1.SnapshotRecord
	entries []*entry // of the builds; nil for other records
	sum     uint64   // of the hashes of the builds
	err     error
}

// readRecords reads n records into the state and returns the sum of the hashes of the builds. Other
// goroutines, which end with it, read and decode ahead.
func (s *State) readRecords(r *bufio.Reader, n uint64) (sum uint64, err error) {
	work := make(chan *encodedRecords)
	inOrder := make(chan *encodedRecords, 2*decoders())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		defer close(work)
		defer close(inOrder)
		for first := uint64(0); first < n; {
			b := readBatch(r, first, n)
			first += uint64(len(b.ends))
			for _, to := range []chan *encodedRecords{inOrder, work} {
				select {
				case to <- b:
				case <-stop:
					return
				}
			}
			if b.err != nil {
				return
			}
		}
	})
	for range decoders() {
		wg.Go(func() {
			m, h := newEntryMaker(), new(recordHasher)
			for b := range work {
				b.done <- b.decode(m, h)
			}
		})
	}
	for b := range inOrder {
		d := <-b.done
		for i, rec := range d.records {
			if err := s.putRecord(rec, d.entries[i]); err != nil {
				return 0, fmt.Errorf("read snapshot record %d: %w", d.first+uint64(i)+1, err)
			}
		}
		if d.err != nil {
			return 0, fmt.Errorf("read snapshot record %d of %d: %w", d.first+uint64(len(d.records))+1, n, noEOF(d.err))
		}
		sum += d.sum
	}
	return sum, nil
}

// readBatch reads the next records. end is the number after that of the last one.
func readBatch(r *bufio.Reader, first, end uint64) *encodedRecords {
	b := &encodedRecords{first: first, buffer: batchBuffers.Get().(*[]byte), done: make(chan decodedRecords, 1)}
	b.data = (*b.buffer)[:0]
	for len(b.ends) < batchRecords && len(b.data) < batchBytes && first+uint64(len(b.ends)) < end {
		size, err := binary.ReadUvarint(r)
		if err == nil && size > maxSnapshotRecord {
			err = fmt.Errorf("it has %d bytes, more than %d", size, maxSnapshotRecord)
		}
		if err != nil {
			b.err = err
			return b
		}
		at := len(b.data)
		b.data = slices.Grow(b.data, int(size))[:at+int(size)]
		if _, b.err = io.ReadFull(r, b.data[at:]); b.err != nil {
			return b
		}
		b.ends = append(b.ends, len(b.data))
	}
	return b
}

// decode decodes the records, up to the first one that it cannot decode. It is called once.
func (b *encodedRecords) decode(m *entryMaker, h *recordHasher) decodedRecords {
	defer func() {
		*b.buffer = b.data
		batchBuffers.Put(b.buffer)
	}()
	d := decodedRecords{first: b.first, records: make([]*buildsv1.SnapshotRecord, 0, len(b.ends)), entries: make([]*entry, 0, len(b.ends))}
	at := 0
	for _, end := range b.ends {
		rec := new(buildsv1.SnapshotRecord)
		if d.err = proto.Unmarshal(b.data[at:end], rec); d.err != nil {
			return d
		}
		at = end
		var e *entry
		if r := rec.GetBuild(); r.GetBuild().GetId() != "" {
			var raw []byte
			if e, raw = m.entry(r); raw != nil {
				d.sum += h.ofEncoded(r.Build.Id, raw)
			} else {
				d.sum += e.hash(h)
			}
		}
		d.records, d.entries = append(d.records, rec), append(d.entries, e)
	}
	d.err = b.err
	return d
}

// putRecord stores a record of a snapshot. e is the entry if the record is a build.
func (s *State) putRecord(rec *buildsv1.SnapshotRecord, e *entry) error {
	switch r := rec.Entry.(type) {
	case *buildsv1.SnapshotRecord_Build:
		if e == nil {
			return errors.New("a build without id")
		}
		s.putEntry(e, r.Build)
	case *buildsv1.SnapshotRecord_Request:
		s.putRequest(r.Request)
	case *buildsv1.SnapshotRecord_CachedRef:
		s.cached.Set(r.CachedRef.GetRef(), r.CachedRef)
	case *buildsv1.SnapshotRecord_Node:
		s.nodes.Set(r.Node.GetName(), r.Node)
	default:
		return errors.New("unknown kind of record")
	}
	return nil
}

// noEOF turns io.EOF into io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
