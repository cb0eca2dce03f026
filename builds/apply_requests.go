package builds

import (
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// requestsPerApply bounds how many old request ids one command forgets. It is
// greater than the one that a command adds, so that the table shrinks.
const requestsPerApply = 8

// remember notes the answer to a request id.
func (tx *change) remember(c *buildsv1.CreateBuild, buildID string, attached bool) {
	if c.RequestId == "" {
		return
	}
	tx.putRequest(&buildsv1.Request{
		Requester:    c.Requester,
		RequestId:    c.RequestId,
		Hash:         c.RequestHash,
		BuildId:      buildID,
		Attached:     attached,
		TimeUnixNano: tx.time,
		Made:         c.RequestMade && tx.level >= madeLevel,
	})
}

// madeLevel is the feature level from which on request ids that the service made
// are soon forgotten: older versions do not know which these are.
const madeLevel = 4

func (s *State) putRequest(r *buildsv1.Request) {
	key := pairKey(r.Requester, r.RequestId)
	s.requests.Set(key, r)
	byTime := s.requestsByTime
	if r.Made {
		byTime = s.madeByTime
	}
	byTime.Set(orderKey(uint64(r.TimeUnixNano))+key, key)
}

// forgetRequests removes up to n request ids that are older than their age.
func (tx *change) forgetRequests(n int) {
	for range n - tx.forgetMade(n) {
		byTime, key, ok := tx.requestsByTime.Min()
		if !ok {
			return
		}
		r, _ := tx.requests.Get(key)
		if r != nil && r.TimeUnixNano+tx.settings.RequestIdAgeNanos > tx.time {
			return
		}
		tx.requestsByTime.Delete(byTime)
		tx.requests.Delete(key)
	}
}

// forgetMade removes up to n old request ids that the service made, and answers
// how many.
func (tx *change) forgetMade(n int) int {
	for i := range n {
		byTime, key, ok := tx.madeByTime.Min()
		if !ok {
			return i
		}
		if r, _ := tx.requests.Get(key); r != nil && r.TimeUnixNano+min(madeAge, tx.settings.RequestIdAgeNanos) > tx.time {
			return i
		}
		tx.madeByTime.Delete(byTime)
		tx.requests.Delete(key)
	}
	return n
}
