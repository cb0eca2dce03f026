package owner

import (
	"context"
	"testing"

	"github.com/image-builder-ha/image-builder/builds/logs"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// storedLog is the log of an attempt on one node.
type storedLog struct{ *logs.Writer }

func (storedLog) Redact(text string) string { return text }
func (storedLog) Feed() *logs.Feed          { return nil }
func (storedLog) Close()                    {}

// Test_Sink_OffsetIsAPositionInTheOutput: a marker is no output of the workload, and a runtime can
// set the position. The next owner continues at this position.
func Test_Sink_OffsetIsAPositionInTheOutput(t *testing.T) {
	store, err := logs.Open(logs.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	key := logs.Key{Build: "b", Attempt: 1}
	open := func(epoch uint64) *sink {
		w, err := store.Create(key, epoch, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		s := newSink(storedLog{w}, func(context.Context, []*imagebuilderv1.Step) {})
		t.Cleanup(s.stop)
		return s
	}
	s := open(1)
	want := func(offset int64) {
		t.Helper()
		if got := s.Offset(); got != offset {
			t.Errorf("the offset is %d, want %d", got, offset)
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Write([]byte("0123456789"))
	do(err)
	do(s.Marker("a line of the service"))
	want(10)
	do(s.Reposition(4))
	want(4)
	_, err = s.Write([]byte("456"))
	do(err)
	want(7)
	do(s.Flush(t.Context()))
	s = open(2)
	want(7)
}
