package builds

import (
	"bytes"
	"strings"
	"testing"
)

// Fuzz_Pack packs and unpacks parts of any data, each as a record.
func Fuzz_Pack(f *testing.F) {
	hex := "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde"
	f.Add([]byte(strings.Repeat(hex+" registry.example.com/team/app ", 50)), uint16(100))
	f.Add([]byte(strings.Repeat("a", 70_000)), uint16(9000))
	f.Add([]byte("short"), uint16(1))
	f.Add(bytes.Repeat([]byte{0, 1, 2, 0xff, 'a', 'f', '0', '9', 'g'}, 400), uint16(37))
	f.Fuzz(func(t *testing.T, data []byte, size uint16) {
		p := newPacker()
		var buffer []byte
		for n := 0; n < 2*dictionaryUses && len(data) > 0; n++ {
			record := data[:min(len(data), 1+int(size)%9973)]
			data = data[len(record):]
			id := string(record[:len(record)/3])
			dict, packed := p.pack(id, record)
			var got []byte
			if got, buffer = dict.unpack(buffer, id, string(packed)); !bytes.Equal(got, record) {
				t.Fatalf("record %d with %d bytes differs after it was packed into %d bytes", n, len(record), len(packed))
			}
		}
	})
}
