package logs_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// Test_Checksum_OfTheBeginning takes checksums of the start of a log: a copy may have more bytes
// than the complete log, in any number of records.
func Test_Checksum_OfTheBeginning(t *testing.T) {
	s := mustOpen(t, logs.Options{})
	w := mustCreate(t, s, key, 1)
	var text strings.Builder
	for i := range 50 {
		line := fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", 5000)) // more than one group of writes
		text.WriteString(line)
		if _, err := w.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		for r, seen := mustReader(t, s, text.Len()-len(line)), 0; seen < len(line); { // wait, so that each line is a record
			chunk, _, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if seen += len(chunk); seen == len(line) {
				r.Close()
			}
		}
	}
	all := text.String()
	for _, n := range []int{0, 1, 5007, len(all) / 2, len(all) - 1, len(all)} {
		want := fmt.Sprintf("xxh64:%016x", xxhash.Sum64String(all[:n]))
		if got, err := s.Checksum(key, int64(n)); got != want || err != nil {
			t.Errorf("%d bytes: %s, %v; want %s", n, got, err, want)
		}
	}
	if sum, err := s.Checksum(key, int64(len(all)+1)); err == nil {
		t.Errorf("more than there is: %s", sum)
	}
}

func mustReader(t *testing.T, s *logs.Store, offset int) *logs.Reader {
	t.Helper()
	r, err := s.Reader(t.Context(), key, int64(offset))
	if err != nil {
		t.Fatal(err)
	}
	return r
}
