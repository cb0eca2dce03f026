package snapshot

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// Test_Read damages a snapshot at each byte and cuts it at each length. Whatever restore does, Read
// returns an error, and a restore that reads to the end receives it too.
func Test_Read(t *testing.T) {
	for _, at := range []Header{{Index: 7}, {Index: 7, Offset: 3}} {
		for _, state := range []string{"", "x", "the state of a node"} {
			var b bytes.Buffer
			if err := Write(&b, at, bytes.NewBufferString(state)); err != nil {
				t.Fatal(err)
			}
			good := b.Bytes()
			for name, r := range map[string]io.Reader{"whole": bytes.NewReader(good), "byte by byte": iotest.OneByteReader(bytes.NewReader(good))} {
				var got []byte
				h, err := Read(r, func(r io.Reader) (err error) { got, err = io.ReadAll(r); return err })
				if err != nil || h != at || string(got) != state {
					t.Errorf("%s: %+v with %q was read as %+v with %q: %v", name, at, state, h, got, err)
				}
			}
			refused := func(raw []byte) {
				t.Helper()
				for _, fails := range []bool{false, true} {
					_, err := Read(bytes.NewReader(raw), func(r io.Reader) error {
						if fails {
							return errors.New("cannot be decoded")
						}
						if _, err := io.ReadAll(r); err == nil {
							t.Errorf("%q of %q was read to its end", raw, good)
						}
						return nil
					})
					if err == nil || fails && !errors.Is(err, errDamaged) && len(raw) == len(good) && raw[6] == 0 && raw[7] == good[7] {
						t.Errorf("%q of %q: %v", raw, good, err)
					}
				}
			}
			for i := range good {
				refused(good[:i])
				bad := bytes.Clone(good)
				bad[i] ^= 0x20
				refused(bad)
			}
			refused(append(bytes.Clone(good), 0))
		}
	}
}

// Test_Read_Error: an error of the reader is not reported as damage.
func Test_Read_Error(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, Header{Index: 1}, bytes.NewBufferString("state")); err != nil {
		t.Fatal(err)
	}
	want := errors.New("input/output error")
	for n := range b.Len() {
		r := io.MultiReader(bytes.NewReader(b.Bytes()[:n]), iotest.ErrReader(want))
		if _, err := Read(r, func(io.Reader) error { return nil }); !errors.Is(err, want) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}
