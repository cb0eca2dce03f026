package builds

import (
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// requestsPerApply limits how many expired request ids one command removes. It is greater than the
// one id that a command adds, so that the table shrinks.
const requestsPerApply = 8

// generatedIDAge is the retention of request ids that the service generated, in nanoseconds. The
// call that generated an id proposes it again for a few seconds at most.
const generatedIDAge = int64(10 * time.Minute)

// minGeneratedAge is the age at which a generated id can make room for another, in nanoseconds. The
// call that generated it has ended by then.
const minGeneratedAge = int64(time.Minute)

// roomForRequest reports whether the state can remember one more request id. It may forget an id
// that the service generated.
func (tx *change) roomForRequest() bool {
	if tx.level < requestLimitLevel || tx.requests.Len() < tx.requestLimit {
		return true
	}
	byTime, key, ok := tx.generatedByTime.Min()
	if !ok {
		return false
	}
	if r, _ := tx.requests.Get(key); r != nil && r.TimeUnixNano+minGeneratedAge > tx.time {
		return false
	}
	tx.generatedByTime.Delete(byTime)
	tx.requests.Delete(key)
	return tx.requests.Len() < tx.requestLimit
}

// remember stores the build that a request id created or joined, so that a repeated request gets
// the same build.
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
		Made:         c.RequestMade && tx.level >= generatedIDLevel,
	})
}

// forgetRequests removes up to n expired request ids.
func (tx *change) forgetRequests(n int) {
	for range n - tx.forgetGenerated(n) {
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

// forgetGenerated removes up to n expired request ids that the service generated, and returns their
// number.
func (tx *change) forgetGenerated(n int) int {
	for i := range n {
		byTime, key, ok := tx.generatedByTime.Min()
		if !ok {
			return i
		}
		if r, _ := tx.requests.Get(key); r != nil && r.TimeUnixNano+min(generatedIDAge, tx.settings.RequestIdAgeNanos) > tx.time {
			return i
		}
		tx.generatedByTime.Delete(byTime)
		tx.requests.Delete(key)
	}
	return n
}
