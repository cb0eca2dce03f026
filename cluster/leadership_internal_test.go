package cluster

import (
	"testing"
	"time"
)

// Test_Leads_OfAnEndedTerm lets the goroutine that establishes a term end after the term. The node
// must not count as the leader then.
func Test_Leads_OfAnEndedTerm(t *testing.T) {
	n := &Node{changed: make(chan struct{}), peers: newPeers(time.Second)}
	check := func(when string, want bool) {
		t.Helper()
		if n.Leads() != want {
			t.Errorf("%s the node leads: %v, want %v", when, !want, want)
		}
	}
	first, second := &Term{number: 1}, &Term{number: 2}
	n.beginTerm(first)
	check("before the term is established", false)
	n.endTerm()
	n.setLeads(first)
	check("after the term", false)
	n.beginTerm(second)
	n.setLeads(first)
	check("in the next term, which is not established", false)
	n.setLeads(second)
	check("in the next term", true)
	if n.leadsIn(first) || !n.leadsIn(second) {
		t.Errorf("the node leads in the first term: %v, in the second: %v", n.leadsIn(first), n.leadsIn(second))
	}
	n.endTerm()
	check("after the next term", false)
}

// Test_Silence_EndsWithItsTerm checks that a node whose disk was stuck sends again once the term
// has ended, and that a late report of the former term does not silence the next one.
func Test_Silence_EndsWithItsTerm(t *testing.T) {
	n := &Node{changed: make(chan struct{}), peers: newPeers(time.Second)}
	first := &Term{number: 1}
	n.beginTerm(first)
	first.quiet.Store(true)
	if !n.silent() {
		t.Error("the node is not silent")
	}
	n.endTerm()
	if n.silent() {
		t.Error("the node is silent after its term")
	}
	n.beginTerm(&Term{number: 2})
	first.quiet.Store(true)
	if n.silent() {
		t.Error("a former term silences the next one")
	}
}

// Test_Peers_OfAFormerTerm checks that nothing that began in a former term counts in the next one.
func Test_Peers_OfAFormerTerm(t *testing.T) {
	p := newPeers(time.Second)
	p.begin(1)
	p.begin(2)
	p.heard(1, "a/1", nil, 0, 0)
	if p.died(1, "b/1") {
		t.Error("a process that was checked in a former term is recorded as ended")
	}
	if len(p.byID) != 0 {
		t.Errorf("members are known by a former term: %v", p.byID)
	}
	p.begin(0)
	if p.died(0, "b/1") {
		t.Error("a node that does not lead records that a process has ended")
	}
	p.begin(3)
	if !p.died(3, "b/1") || p.died(3, "b/1") {
		t.Error("the end of a process is not recorded once")
	}
}
