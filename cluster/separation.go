package cluster

import "time"

// separation describes the connection of a node to the leader, after the node has asked the other
// members. heard is the time since the last message of a leader. unanswered is the time for which
// requests to the leader have had no response.
type separation struct {
	heard      time.Duration
	unanswered time.Duration
	// knew is true if this process has heard a leader or led before. A node that starts waits
	// longer, because the others may start as well.
	knew bool
	// majority is true if this node and the members that responded, that are starting, or whose
	// hosts refused the connection, are a majority of the voters. A process that has ended may come
	// back.
	majority bool
	// elsewhere is true if a member reports that it hears a leader.
	elsewhere bool
	// late is true if this process did not run for a part of the time in which it asked them.
	late bool
}

// Timeouts of separation, for heartbeat timeouts up to the default. They grow with longer ones.
const (
	defaultHeartbeat = 500 * time.Millisecond
	// suspectTimeout is how long the leader must be silent before a node asks the other members. A
	// leader sends a message every 10 to 20 ms. The same time bounds the wait for their responses.
	suspectTimeout = 300 * time.Millisecond
	// elsewhereTimeout is how long a node may hear no leader while another member hears one.
	elsewhereTimeout = 500 * time.Millisecond
	// isolatedTimeout is how long a node may hear no leader without a majority that responds.
	isolatedTimeout = 800 * time.Millisecond
	// unansweredTimeout is how long requests may be without a response while there is a leader. A
	// leader may need longer for a command, but responds to a ping at once.
	unansweredTimeout = time.Second
	// freshLimit is the time since the last message of a leader up to which a member hears it. A
	// member that has lost the same leader has not heard it for about suspectTimeout.
	freshLimit = 150 * time.Millisecond
)

// reason returns why the node counts as separated, or "" if it does not. Nodes that can elect a
// leader, or wait for the election, do not count as separated for UnreachableTimeout. scale is that
// of Node.scale.
func (s separation) reason(scale float64) string {
	times := func(d time.Duration) time.Duration { return time.Duration(scale * float64(d)) }
	switch {
	case max(s.heard, s.unanswered) >= times(UnreachableTimeout):
		return "no leader responds"
	case s.late || !s.knew:
		return ""
	case s.elsewhere && s.heard >= times(elsewhereTimeout):
		return "another member hears a leader, and this node hears none"
	case (s.elsewhere || s.heard < times(suspectTimeout)) && s.unanswered >= times(unansweredTimeout):
		return "the leader does not respond to this node"
	case !s.majority && s.heard >= times(isolatedTimeout):
		return "this node hears no leader and no majority of the members"
	}
	return ""
}
