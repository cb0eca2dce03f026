package cluster

import (
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// Test_Promoter_ChoosesVoters checks which change the promoter returns, at most one at a time.
func Test_Promoter_ChoosesVoters(t *testing.T) {
	const stable = time.Second
	type server struct {
		id, zone  string
		votes     bool
		unhealthy time.Duration // time since it became unhealthy; 0 if it is healthy
		fresh     bool          // healthy, but not for long enough
	}
	for _, c := range []struct {
		name            string
		voters          int
		servers         []server
		promote, demote raft.ServerID
	}{
		{"as wanted", 3, []server{{id: "a", votes: true}, {id: "b", votes: true}, {id: "c", votes: true}, {id: "d"}}, "", ""},
		{"one is missing", 3, []server{{id: "a", votes: true}, {id: "b", votes: true}, {id: "c"}}, "c", ""},
		{"a node that is not stable yet", 3, []server{{id: "a", votes: true}, {id: "b", votes: true}, {id: "c", fresh: true}}, "", ""},
		{"a node that does not respond", 3, []server{{id: "a", votes: true}, {id: "b", votes: true}, {id: "c", unhealthy: time.Minute}}, "", ""},
		{
			"the zone without a voter", 3,
			[]server{{id: "a", zone: "x", votes: true}, {id: "b", zone: "y", votes: true}, {id: "c", zone: "x"}, {id: "d", zone: "y"}, {id: "e", zone: "z"}},
			"e", "",
		},
		{
			"the zone with the fewest voters", 5,
			[]server{{id: "a", zone: "x", votes: true}, {id: "b", zone: "x", votes: true}, {id: "c", zone: "y", votes: true}, {id: "d", zone: "x"}, {id: "e", zone: "y"}},
			"e", "",
		},
		{
			"an unhealthy voter does not count for its zone", 5,
			[]server{{id: "a", zone: "x", votes: true, unhealthy: time.Minute}, {id: "b", zone: "x", votes: true, unhealthy: time.Minute}, {id: "c", zone: "y", votes: true}, {id: "d", zone: "x"}, {id: "e", zone: "y"}},
			"d", "",
		},
		{"an unhealthy voter is replaced", 3, []server{{id: "a", votes: true}, {id: "b", votes: true}, {id: "c", votes: true, unhealthy: time.Minute}, {id: "d"}}, "", "c"},
		{"a voter that is unhealthy for a moment is not", 3, []server{{id: "a", votes: true}, {id: "b", votes: true}, {id: "c", votes: true, unhealthy: stable}, {id: "d"}}, "", ""},
		{"nobody could replace an unhealthy voter", 3, []server{{id: "a", votes: true}, {id: "b", votes: true}, {id: "c", votes: true, unhealthy: time.Minute}}, "", ""},
		{"too many, the leader stays", 1, []server{{id: "a", votes: true}, {id: "b", votes: true}}, "", "b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &autopilot.State{Leader: "a", Servers: map[raft.ServerID]*autopilot.ServerState{}}
			for _, x := range c.servers {
				srv := &autopilot.ServerState{
					Server: autopilot.Server{ID: raft.ServerID(x.id), Ext: x.zone},
					State:  autopilot.RaftNonVoter,
					Health: autopilot.ServerHealth{Healthy: x.unhealthy == 0, StableSince: time.Now().Add(-time.Hour)},
				}
				switch {
				case x.unhealthy > 0:
					srv.Health.StableSince = time.Now().Add(-x.unhealthy)
				case x.fresh:
					srv.Health.StableSince = time.Now()
				}
				if x.votes {
					srv.State = autopilot.RaftVoter
				}
				if x.id == "a" {
					srv.State = autopilot.RaftLeader
				}
				s.Servers[srv.Server.ID] = srv
			}
			p := promoter{&Node{cfg: Config{Voters: c.voters, StableFor: stable}}}
			got := p.CalculatePromotionsAndDemotions(&autopilot.Config{ServerStabilizationTime: stable}, s)
			want := func(id raft.ServerID) []raft.ServerID {
				if id == "" {
					return nil
				}
				return []raft.ServerID{id}
			}
			if !slices.Equal(got.Promotions, want(c.promote)) || !slices.Equal(got.Demotions, want(c.demote)) {
				t.Errorf("promotes %v, demotes %v; want %q, %q", got.Promotions, got.Demotions, c.promote, c.demote)
			}
		})
	}
}
