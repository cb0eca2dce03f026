package logs

// maxPoints bounds the points that a trail keeps.
const maxPoints = 256

// point is a place between two records of a log: the length of the log there, and the raw offset.
type point struct {
	length, raw int64
}

// trail derives a raw offset that all copies have from the length that all copies have. The zero
// value is a trail that knows nothing.
type trail struct {
	held  point   // the last point that all copies have
	ahead []point // of the owner's copy, in the order of the log; all have more bytes than held
}

// add adds a point of the owner's copy. It must be the end of a record with a payload: a copy that
// has the length then also has the raw offset. Once the trail is full, it forgets every other
// point, so that the raw offset follows the length in larger steps.
func (t *trail) add(p point) {
	if p.length <= t.held.length {
		return
	}
	if len(t.ahead) == maxPoints {
		for i := range maxPoints / 2 {
			t.ahead[i] = t.ahead[2*i+1]
		}
		t.ahead = t.ahead[:maxPoints/2]
	}
	t.ahead = append(t.ahead, p)
}

// reach records that all copies have length bytes.
func (t *trail) reach(length int64) {
	n := 0
	for n < len(t.ahead) && t.ahead[n].length <= length {
		t.held = t.ahead[n]
		n++
	}
	t.ahead = t.ahead[n:]
}

// prove records that all copies have a point, which may follow records without a payload.
func (t *trail) prove(p point) {
	if t.reach(p.length); p.length >= t.held.length {
		t.held = p
	}
}
