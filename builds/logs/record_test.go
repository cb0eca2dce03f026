package logs_test

import (
	"bytes"
	"encoding/binary"
	"flag"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

var lineFlag = flag.Int("logs.line", 8<<20, "length of the line of Test_Record_LongLine, in bytes")

// Test_Record_OutputThatWasHeldBack writes output that the redactor holds back until it is
// larger than the largest record that can be read.
func Test_Record_OutputThatWasHeldBack(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir})
	long := noise(7, 1<<20+128<<10)
	w, err := s.Create(key, 1, logs.NewRedactor(nil, []string{string(long)}), false)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, w, []byte("before\n"))
	mustWrite(t, w, long[:1<<20+64<<10])
	mustWrite(t, w, []byte("\nafter\n"))
	length, _, err := w.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Reader(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	for read := int64(0); read < length; {
		chunk, _, err := r.Next(t.Context())
		if err != nil {
			t.Errorf("a reader gets %d of %d bytes: %v", read, length, err)
			break
		}
		read += int64(len(chunk))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := longestRecord(t, dir); n > 1<<20 {
		t.Errorf("a record has %d bytes, which version 0.3.0 cannot read", n)
	}
	n, err := mustOpen(t, logs.Options{Dir: dir}).Durable(key)
	if n != length || err != nil {
		t.Errorf("after a restart the log has %d of %d bytes (%v)", n, length, err)
	}
}

// longestRecord returns the greatest length of a payload in the segments of a directory.
func longestRecord(t *testing.T, dir string) (n int) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%d segments: %v", len(paths), err)
	}
	for _, path := range paths {
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for at := 48; at+16 <= len(file); {
			size := int(binary.BigEndian.Uint32(file[at+4:]))
			n = max(n, size)
			at += 16 + size
		}
	}
	return n
}

// Test_Record_OfAnOlderVersion reads and copies a record of 2 MiB, as version 0.3.0 wrote it.
func Test_Record_OfAnOlderVersion(t *testing.T) {
	table := crc32.MakeTable(crc32.Castagnoli)
	file := append([]byte("iblog\x00\x00\x01"), make([]byte, 32)...)
	file[15] = 1 // the epoch
	file = binary.BigEndian.AppendUint32(file, crc32.Checksum(file, table))
	file = append(file, 0, 0, 0, 0)
	payload := noise(8, 2<<20)
	head := binary.BigEndian.AppendUint32(nil, 1)
	head = binary.BigEndian.AppendUint32(head, uint32(len(payload)))
	head = binary.BigEndian.AppendUint32(head, uint32(len(payload)))
	file = append(file, head...)
	file = binary.BigEndian.AppendUint32(file, crc32.Update(crc32.Checksum(head, table), table, payload))
	file = append(file, payload...)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, key.Build+".1.00000000.log"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, logs.Options{Dir: dir})
	if recs, err := s.Records(key, 0, 1<<20); len(recs) == 0 || err != nil {
		t.Errorf("%d records can be copied: %v", len(recs), err)
	}
	if err := s.Complete(key, int64(len(payload))); err != nil {
		t.Fatal(err)
	}
	if got := readTo(t, s, key, 0, all); !bytes.Equal(got, payload) {
		t.Errorf("%d of %d bytes are read", len(got), len(payload))
	}
}

// Test_Record_LongLine writes a line without an end that contains secrets of 1 MB, beyond the limit
// of the log. The memory of the writer stays bounded, no byte of a secret is in the log, and one
// line says that the log was truncated.
func Test_Record_LongLine(t *testing.T) {
	total := *lineFlag
	limit := int64(total / 4)
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir, MaxBytes: limit})
	secret := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz/+"), 1<<20/38)
	copy(secret, "begin of the secret")
	w, err := s.Create(key, 1, logs.NewRedactor([][]byte{secret}, nil), false)
	if err != nil {
		t.Fatal(err)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, worst := heap(), uint64(0)
	filler := bytes.Repeat([]byte("."), 1<<20)
	for n := 0; n < total; n += len(secret) + len(filler) {
		mustWrite(t, w, filler)
		mustWrite(t, w, secret[:len(secret)/2])
		worst = max(worst, heap())
		mustWrite(t, w, secret[len(secret)/2:])
	}
	length, _, err := w.Seal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if grown := int64(worst) - int64(before); grown > 16<<20 {
		t.Errorf("the writer needs %d bytes of memory more than at its start", grown)
	}
	if err := s.Complete(key, length); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, logs.Options{Dir: dir, MaxBytes: limit})
	r, err := s.Reader(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	read, truncated, last := int64(0), 0, ""
	for {
		chunk, _, err := r.Next(t.Context())
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		read += int64(len(chunk))
		text := last + string(chunk)
		if strings.Contains(text, "the secret") || strings.Contains(text, "0123456789") {
			t.Fatal("the log has a part of the secret")
		}
		truncated += strings.Count(text, "log truncated") - strings.Count(last, "log truncated")
		last = text[max(0, len(text)-40):]
	}
	if read != length || truncated != 1 {
		t.Errorf("%d of %d bytes are read; %d lines say that the log was truncated", read, length, truncated)
	}
}
