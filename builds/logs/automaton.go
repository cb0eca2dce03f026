package logs

import "sync"

// prefixBytes is the length up to which patterns are in an automaton at first. A secret may have
// 1 MiB, in a dozen of encodings, and few builds print one.
const prefixBytes = 32

// automaton finds all occurrences of many patterns in a stream, in a number of steps that is linear
// in the length of the stream (Aho and Corasick). Its states are the nodes of a trie: the state is
// the longest suffix of the stream that is a prefix of a pattern. State 0 is the root, with the
// empty text. The text of another state is that of its parent and the state's label.
//
// An automaton does not change after link, so that several goroutines may use it.
type automaton struct {
	root   [256]int32 // children of the root
	labels []byte
	marks  []byte
	depths []int32 // lengths of the texts
	fails  []int32 // the longest other state whose text is a suffix of this state's text
	// outs has the states whose text has a pattern as a suffix: the longest such pattern, as a
	// state.
	outs map[int32]int32
	// branches has the children that do not follow their parent, and parents has their parents.
	branches map[branch]int32
	parents  map[int32]int32
	// tails has the patterns of more than limit bytes, by the state of their first limit bytes.
	limit int
	tails map[int32]*tail
}

// Marks of a state.
const (
	stateNext   = 1 << iota // the next state is a child
	stateBranch             // some children are in branches
	stateEnd                // the text is a pattern
	stateSecret             // a suffix of the text is a secret
	stateOut                // a suffix of the text is a pattern
	stateTail               // the text is the beginning of patterns in tails
)

type branch struct {
	parent int32
	label  byte
}

// tail is a set of patterns with the same first bytes. Their automaton is built at the first use.
type tail struct {
	texts  [][]byte
	secret []bool
	once   sync.Once
	whole  *automaton
}

// newAutomaton returns an automaton that contains patterns up to limit bytes. The rest of a longer
// pattern is in tails.
func newAutomaton(limit int) *automaton {
	return &automaton{
		labels: make([]byte, 1), marks: make([]byte, 1), depths: make([]int32, 1),
		outs: map[int32]int32{}, branches: map[branch]int32{}, parents: map[int32]int32{},
		limit: limit, tails: map[int32]*tail{},
	}
}

// add adds a pattern, which must not be empty. Call link after the last one.
func (a *automaton) add(text []byte, secret bool) {
	at := a.insert(text[:min(len(text), a.limit)])
	if len(text) <= a.limit {
		a.marks[at] |= stateEnd
		if secret {
			a.marks[at] |= stateSecret
		}
		return
	}
	a.marks[at] |= stateTail
	t := a.tails[at]
	if t == nil {
		t = &tail{}
		a.tails[at] = t
	}
	t.texts, t.secret = append(t.texts, text), append(t.secret, secret)
}

// insert adds states for a text, and returns the last one.
func (a *automaton) insert(text []byte) (at int32) {
	for _, c := range text {
		child := a.child(at, c)
		if child == 0 {
			child = int32(len(a.labels))
			a.labels, a.marks, a.depths = append(a.labels, c), append(a.marks, 0), append(a.depths, a.depths[at]+1)
			switch {
			case at == 0:
				a.root[c] = child
				a.parents[child] = 0
			case at == child-1:
				a.marks[at] |= stateNext
			default:
				a.marks[at] |= stateBranch
				a.branches[branch{at, c}] = child
				a.parents[child] = at
			}
		}
		at = child
	}
	return at
}

// child returns the child of a state with that label, or 0.
func (a *automaton) child(at int32, c byte) int32 {
	if at == 0 {
		return a.root[c]
	}
	marks := a.marks[at]
	if marks&stateNext != 0 && a.labels[at+1] == c {
		return at + 1
	}
	if marks&stateBranch != 0 {
		return a.branches[branch{at, c}]
	}
	return 0
}

func (a *automaton) parent(at int32) int32 {
	if p, ok := a.parents[at]; ok {
		return p
	}
	return at - 1
}

// link computes fails and outs, in the order of the depth of the states.
func (a *automaton) link() {
	a.fails = make([]int32, len(a.labels))
	for _, at := range a.byDepth()[1:] {
		if p := a.parent(at); p != 0 {
			a.fails[at], _ = a.next(a.fails[p], a.labels[at])
		}
		fail := a.fails[at]
		a.marks[at] |= a.marks[fail] & (stateSecret | stateOut)
		switch {
		case a.marks[at]&stateEnd != 0:
			a.marks[at] |= stateOut
			a.outs[at] = at
		case a.marks[at]&stateOut != 0:
			a.outs[at] = a.outs[fail]
		}
	}
}

// byDepth returns all states in the order of their depth.
func (a *automaton) byDepth() []int32 {
	var first []int32 // the index of the first state of each depth
	for _, d := range a.depths {
		for int(d)+1 >= len(first) {
			first = append(first, 0)
		}
		first[d+1]++
	}
	for i := 1; i < len(first); i++ {
		first[i] += first[i-1]
	}
	order := make([]int32, len(a.depths))
	for at, d := range a.depths {
		order[first[d]] = int32(at)
		first[d]++
	}
	return order
}

// next returns the state after the byte c, and the number of states that it visited.
func (a *automaton) next(at int32, c byte) (to int32, steps int) {
	for steps = 1; ; steps++ {
		if to = a.child(at, c); to != 0 || at == 0 {
			return to, steps
		}
		at = a.fails[at]
	}
}

// automaton returns the automaton of the whole patterns of t.
func (t *tail) automaton() *automaton {
	t.once.Do(func() {
		size := 1
		for _, text := range t.texts {
			size = max(size, len(text)+1)
		}
		a := newAutomaton(size)
		a.labels, a.marks, a.depths = make([]byte, 1, size), make([]byte, 1, size), make([]int32, 1, size)
		for i, text := range t.texts {
			a.add(text, t.secret[i])
		}
		a.link()
		t.whole = a
	})
	return t.whole
}

// matcher is the position of one stream in an automaton, and in the automata of its tails.
type matcher struct {
	automaton *automaton
	state     int32
	tails     []tailState
}

// tailState is a position in the automaton of a tail, whose text is not shorter than prefixBytes.
type tailState struct {
	automaton *automaton
	state     int32
}

// none reports whether no suffix of the stream is a prefix of a pattern.
func (m *matcher) none() bool { return m.state == 0 && len(m.tails) == 0 }

func (m *matcher) reset() { m.state, m.tails = 0, m.tails[:0] }

// depth returns the length of the longest suffix of the stream that is the beginning of a pattern
// and that more input may complete.
func (m *matcher) depth() int {
	d := m.automaton.depths[m.state]
	for _, t := range m.tails {
		d = max(d, t.automaton.depths[t.state])
	}
	return int(d)
}

// next takes a byte. It returns the length of the longest pattern that is a suffix of the stream,
// or 0, and whether a secret is a suffix of the stream. steps is the number of states that it
// visited.
func (m *matcher) next(c byte) (length int, secret bool, steps int) {
	if len(m.tails) > 0 {
		length, secret, steps = m.nextOfTails(c)
	}
	a := m.automaton
	state, n := a.next(m.state, c)
	steps += n
	marks := a.marks[state]
	if marks&stateOut != 0 {
		length, secret = max(length, int(a.depths[a.outs[state]])), secret || marks&stateSecret != 0
	}
	if marks&stateTail != 0 {
		m.enter(a.tails[state].automaton(), a.depths[state])
	}
	m.state, n = a.open(state)
	return length, secret, steps + n
}

// nextOfTails is next for the tails.
func (m *matcher) nextOfTails(c byte) (length int, secret bool, steps int) {
	kept := m.tails[:0]
	for _, t := range m.tails {
		state, n := t.automaton.next(t.state, c)
		if marks := t.automaton.marks[state]; marks&stateOut != 0 {
			length, secret = max(length, int(t.automaton.depths[t.automaton.outs[state]])), secret || marks&stateSecret != 0
		}
		open, more := t.automaton.open(state)
		if steps += n + more; int(t.automaton.depths[open]) >= prefixBytes {
			kept = append(kept, tailState{t.automaton, open})
		}
	}
	m.tails = kept
	return length, secret, steps
}

// enter begins to follow the patterns of a tail after their first depth bytes.
func (m *matcher) enter(a *automaton, depth int32) {
	for _, t := range m.tails {
		if t.automaton == a {
			return
		}
	}
	m.tails = append(m.tails, tailState{a, depth}) // the first states are those of the first bytes
}

// open returns the longest state whose text is a suffix of this state's text and that a pattern
// continues, and the number of states that it visited.
func (a *automaton) open(state int32) (open int32, steps int) {
	for state != 0 && a.marks[state]&(stateNext|stateBranch) == 0 {
		state = a.fails[state]
		steps++
	}
	return state, steps
}

// shorten drops texts of more than n bytes, where n is less than prefixBytes. It returns the number
// of states that it visited.
func (m *matcher) shorten(n int) (steps int) {
	m.tails = m.tails[:0]
	for int(m.automaton.depths[m.state]) > n {
		m.state = m.automaton.fails[m.state]
		steps++
	}
	return steps
}
