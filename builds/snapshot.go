package builds

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// snapshot writes a frozen state: a header and then the records, each preceded by its length.
type snapshot struct {
	state *State
	// summed, if it is not nil, receives the sums of the records once all are written.
	summed func(tableSums)
}

// WriteTo writes the snapshot. It has no checksum, which package cluster adds.
func (s snapshot) WriteTo(w io.Writer) (int64, error) {
	cw := &countingWriter{w: bufio.NewWriterSize(w, 1<<20)}
	st := s.state
	if _, err := protodelim.MarshalTo(cw, st.header()); err != nil {
		return cw.n, fmt.Errorf("write snapshot header: %w", err)
	}
	var err error
	put := func(rec *buildsv1.SnapshotRecord) bool {
		if err == nil {
			_, err = protodelim.MarshalTo(cw, rec)
		}
		return err == nil
	}
	var sums tableSums
	var h recordHasher
	var buf []byte
	count := func(table int, key string, m proto.Message) {
		if s.summed != nil {
			sums[table] += h.of(key, m)
		}
	}
	st.builds.m.Scan(func(e *entry) bool {
		if s.summed != nil {
			sums[0] += e.hash(&h)
		}
		if e.dict == nil {
			return put(&buildsv1.SnapshotRecord{Entry: &buildsv1.SnapshotRecord_Build{Build: e.record}})
		}
		e.withRaw(func(raw []byte) {
			if err == nil {
				buf = appendEncodedBuild(buf[:0], raw)
				_, err = cw.Write(buf)
			}
		})
		return err == nil
	})
	st.requests.Scan(func(key string, r *buildsv1.Request) bool {
		count(1, key, r)
		return put(&buildsv1.SnapshotRecord{Entry: &buildsv1.SnapshotRecord_Request{Request: r}})
	})
	st.cached.Scan(func(key string, r *imagebuilderv1.CachedRef) bool {
		count(2, key, r)
		return put(&buildsv1.SnapshotRecord{Entry: &buildsv1.SnapshotRecord_CachedRef{CachedRef: r}})
	})
	st.nodes.Scan(func(key string, n *buildsv1.Node) bool {
		count(3, key, n)
		return put(&buildsv1.SnapshotRecord{Entry: &buildsv1.SnapshotRecord_Node{Node: n}})
	})
	if err == nil {
		err = cw.w.Flush()
	}
	if err != nil {
		return cw.n, fmt.Errorf("write snapshot: %w", err)
	}
	if s.summed != nil {
		s.summed(sums)
	}
	return cw.n, nil
}

// appendEncodedBuild appends a SnapshotRecord, preceded by its length, with a build that is encoded.
func appendEncodedBuild(buf, raw []byte) []byte {
	const field = 1 // SnapshotRecord.build
	buf = protowire.AppendVarint(buf, uint64(protowire.SizeTag(field)+protowire.SizeBytes(len(raw))))
	return protowire.AppendBytes(protowire.AppendTag(buf, field, protowire.BytesType), raw)
}

// countingWriter counts the bytes that it writes.
type countingWriter struct {
	w *bufio.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// readSnapshot reads a snapshot to the end of the reader. It refuses a truncated one, and bytes after
// the last record. It knows the sum of the builds.
func readSnapshot(r io.Reader) (*State, error) {
	br := bufio.NewReaderSize(r, 1<<20)
	opts := protodelim.UnmarshalOptions{MaxSize: maxSnapshotRecord}
	var h buildsv1.SnapshotHeader
	if err := opts.UnmarshalFrom(br, &h); err != nil {
		return nil, fmt.Errorf("read snapshot header: %w", noEOF(err))
	}
	if h.Format != snapshotFormat {
		return nil, fmt.Errorf("read snapshot: format %d is unknown to this version, which knows %d", h.Format, snapshotFormat)
	}
	if h.FeatureLevel > FeatureLevel {
		return nil, fmt.Errorf("read snapshot: it needs feature level %d, this version knows %d", h.FeatureLevel, FeatureLevel)
	}
	s := NewState()
	s.index, s.time, s.level = h.Index, h.TimeUnixNano, h.FeatureLevel
	if h.Settings != nil {
		s.settings = h.Settings
	}
	if h.Cache != nil {
		s.cacheConfig = h.Cache
	}
	s.collectBuilds()
	sum, err := s.readRecords(br, h.Records)
	if err != nil {
		return nil, err
	}
	if err := s.loadBuilds(); err != nil {
		return nil, err
	}
	if _, err := br.ReadByte(); err == nil {
		return nil, fmt.Errorf("read snapshot: bytes follow the last of %d records", h.Records)
	} else if !errors.Is(err, io.EOF) { // for example, the checksum at the end is wrong
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	s.settle()
	s.builds.trackFrom(sum)
	return s, nil
}

// CheckSnapshot reads a whole snapshot and returns its feature level.
func CheckSnapshot(r io.Reader) (level uint32, err error) {
	s, err := readSnapshot(r)
	if err != nil {
		return 0, err
	}
	return s.level, nil
}
