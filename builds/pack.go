package builds

import (
	"encoding/binary"
	"math"
	"slices"
)

// A packed record is a sequence of operations that append to a text. The text begins with a
// dictionary and the id of the build; the record follows. Each operation begins with a byte: two
// bits for its kind, and six bits for a number n.
const (
	opText   = 0 << 6 // append the n+1 bytes that follow
	opHex    = 1 << 6 // append the n+1 bytes that follow as pairs of hexadecimal digits
	opRepeat = 2 << 6 // append n+minCopy bytes of the text, from the last distance back on
	opCopy   = 3 << 6 // set the distance to the varint that follows, then as opRepeat

	opNumbers = 1 << 6 // numbers of an operation

	minCopy  = 3 // bytes that the last distance must repeat
	minMatch = 6 // bytes that another distance must repeat: hexadecimal digits are shorter without it
	minHex   = 8 // hexadecimal digits
)

const (
	// dictionaryRecords is how many records are the text of a dictionary.
	dictionaryRecords = 4
	// dictionaryBytes is how much of each record is in it, in bytes.
	dictionaryBytes = 2048
	// dictionaryUses is how many records are packed with one dictionary.
	dictionaryUses = 512

	tableBits = 12 // of the hashes of the texts to which a packer finds repetitions
)

// dictionary is the compression dictionary of packed records. It consists of records of builds that
// ended a little earlier, with the same names of registries and nodes. So a record takes a third of
// its bytes.
type dictionary struct{ text []byte }

// packer packs records. It chooses the dictionaries: each one is made of the last records that were
// packed. It is not safe for concurrent use.
type packer struct {
	dict   *dictionary
	uses   int                       // of dict
	packed int                       // records
	last   [dictionaryRecords][]byte // the beginnings of the last records

	text  []byte // dictionary, id and record
	out   []byte
	known [1 << tableBits]int32 // by hash, the place after the beginning of a text in the dictionary
	table [1 << tableBits]int32 // by hash, base plus the place of a text in text; smaller numbers are old
	base  int
}

func newPacker() *packer { return &packer{dict: new(dictionary)} }

// pack returns a record in packed form, which is valid until the next call, and its dictionary.
func (p *packer) pack(id string, record []byte) (*dictionary, []byte) {
	if p.packed == dictionaryRecords || p.uses == dictionaryUses {
		p.newDictionary()
	}
	p.uses++
	p.text = append(append(append(p.text[:0], p.dict.text...), id...), record...)
	if p.base > math.MaxInt32/2 {
		clear(p.table[:])
		p.base = 0
	}
	start := len(p.text) - len(record)
	for i := len(p.dict.text); i < start; i++ {
		p.match(i) // notes the id
	}
	p.out = p.out[:0]
	p.packText(start)
	p.base += len(p.text)

	newest := &p.last[p.packed%dictionaryRecords]
	*newest = append((*newest)[:0], record[:min(len(record), dictionaryBytes)]...)
	p.packed++
	return p.dict, p.out
}

func (p *packer) newDictionary() {
	p.dict, p.uses = &dictionary{slices.Concat(p.last[:]...)}, 0
	clear(p.known[:])
	for i := range len(p.dict.text) - 8 {
		p.known[textHash(p.dict.text[i:])] = int32(i + 1)
	}
}

// packText packs the text from start on.
func (p *packer) packText(start int) {
	t := p.text
	distance, done := 0, start
	for i := start; i < len(t); {
		n, back := 0, distance
		if distance > 0 {
			n = common(t, i-distance, i)
		}
		if n < minCopy {
			if n, back = p.match(i); n < minMatch {
				i++
				if digits := hexDigits(t[i:]); digits >= minHex {
					i += digits // a hash has no part in common with another one
				}
				continue
			}
			for i > done && back < i && t[i-1] == t[i-1-back] {
				i, n = i-1, n+1
			}
		}
		p.putText(t[done:i])
		p.putCopy(n, back, back != distance)
		distance = back
		i += n
		done = i
	}
	p.putText(t[done:])
}

// match returns the length and the distance of an earlier text that is equal to the one at i, and
// notes the one at i for later ones.
func (p *packer) match(i int) (n, distance int) {
	if i+8 > len(p.text) {
		return 0, 0
	}
	h := textHash(p.text[i:])
	at := int(p.table[h]) - p.base
	if at <= 0 {
		at = int(p.known[h]) - 1
	}
	p.table[h] = int32(p.base + i)
	if at < 0 {
		return 0, 0
	}
	return common(p.text, at, i), i - at
}

// textHash returns the hash of the first minMatch bytes of a text, which has at least 8 bytes.
func textHash(t []byte) uint64 {
	return binary.LittleEndian.Uint64(t) << (64 - 8*minMatch) * 0x9e3779b97f4a7c15 >> (64 - tableBits)
}

// common returns how many bytes at a and at b, which is greater, are the same.
func common(t []byte, a, b int) (n int) {
	for b+n < len(t) && t[a+n] == t[b+n] {
		n++
	}
	return n
}

// putCopy appends operations that repeat n bytes.
func (p *packer) putCopy(n, distance int, other bool) {
	for n > 0 {
		k := min(n, opNumbers-1+minCopy)
		if rest := n - k; rest > 0 && rest < minCopy {
			k -= minCopy
		}
		n -= k
		if other {
			p.out = binary.AppendUvarint(append(p.out, opCopy|byte(k-minCopy)), uint64(distance))
		} else {
			p.out = append(p.out, opRepeat|byte(k-minCopy))
		}
		other = false
	}
}

// putText appends operations that append a text.
func (p *packer) putText(t []byte) {
	for len(t) > 0 {
		if n := hexDigits(t) / 2; n >= minHex/2 {
			p.out = append(p.out, opHex|byte(n-1))
			for i := range n {
				p.out = append(p.out, hexValue(t[2*i])<<4|hexValue(t[2*i+1]))
			}
			t = t[2*n:]
			continue
		}
		n := 1
		for n < min(len(t), opNumbers) && hexDigits(t[n:]) < minHex {
			n++
		}
		p.out = append(append(p.out, opText|byte(n-1)), t[:n]...)
		t = t[n:]
	}
}

// hexDigits returns with how many hexadecimal digits of lower case a text begins, at most as many
// as one operation appends.
func hexDigits(t []byte) (n int) {
	t = t[:min(len(t), 2*opNumbers)]
	for n < len(t) && hexValues[t[n]] > 0 {
		n++
	}
	return n
}

// hexValues has, for each hexadecimal digit, its value plus 1.
var hexValues = func() (values [256]byte) {
	for i := range byte(16) {
		values[hexAlphabet[i]] = i + 1
	}
	return values
}()

// hexValue returns the value of a hexadecimal digit.
func hexValue(c byte) byte { return hexValues[c] - 1 }

const hexAlphabet = "0123456789abcdef"

// unpack returns the record of a build. The rest of the buffer, which may be nil, is a buffer for
// the next call.
func (d *dictionary) unpack(buffer []byte, id, packed string) (record, next []byte) {
	t := append(append(buffer[:0], d.text...), id...)
	start, distance := len(t), 0
	for len(packed) > 0 {
		op := packed[0]
		n := int(op % opNumbers)
		packed = packed[1:]
		switch op - byte(n) {
		case opText:
			t = append(t, packed[:n+1]...)
			packed = packed[n+1:]
		case opHex:
			for i := range n + 1 {
				t = append(t, hexAlphabet[packed[i]>>4], hexAlphabet[packed[i]&0xf])
			}
			packed = packed[n+1:]
		case opCopy:
			k := 0
			distance, k = varint(packed)
			packed = packed[k:]
			fallthrough
		case opRepeat:
			for range n + minCopy { // the two texts may overlap
				t = append(t, t[len(t)-distance])
			}
		}
	}
	return t[start:], t
}

// varint is binary.Uvarint for a string.
func varint(s string) (v, n int) {
	for shift := 0; ; shift += 7 {
		v |= int(s[n]&0x7f) << shift
		n++
		if s[n-1] < 0x80 {
			return v, n
		}
	}
}
