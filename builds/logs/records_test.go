package logs

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

// Test_Records_PositionsComeFirst reads the records from the offset of a new position on, within a
// segment, even where the index has an entry, and at the begin of a segment. The position must come
// with the output after it: a copy that ends there has no other way to learn it.
func Test_Records_PositionsComeFirst(t *testing.T) {
	for name, c := range map[string]struct {
		segment int64
		before  int
	}{
		"within a segment":          {1 << 20, 10},
		"at an entry of the index":  {1 << 20, seekStep},
		"at the begin of a segment": {1, 10},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := Open(Options{Dir: t.TempDir(), SegmentBytes: c.segment})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				key := Key{Build: "b", Attempt: 1}
				w, err := s.Create(key, 1, nil, false)
				if err != nil {
					t.Fatal(err)
				}
				do := func(_ int, err error) {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second) // each step is a flush of its own
				}
				do(w.Write(bytes.Repeat([]byte("."), c.before)))
				do(0, w.Reposition(7))
				do(w.Write([]byte("after it")))
				do(w.Write([]byte("and more")))
				recs, err := s.Records(key, int64(c.before), 1)
				if err != nil || len(recs) < 2 {
					t.Fatalf("%d records: %v", len(recs), err)
				}
				if p, ok := positionOf(recs[0]); !ok || p.raw != 7 || string(recs[len(recs)-1].payload) != "after it" {
					t.Errorf("the first record is of the kind %d with the position %d", recs[0].kind, p.raw)
				}
			})
		})
	}
}
