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
	})
}

func (s *State) putRequest(r *buildsv1.Request) {
	key := pairKey(r.Requester, r.RequestId)
	s.requests.Set(key, r)
	s.requestsByTime.Set(orderKey(uint64(r.TimeUnixNano))+key, key)
}

// forgetRequests removes up to n request ids that are older than their age.
func (tx *change) forgetRequests(n int) {
	for range n {
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
