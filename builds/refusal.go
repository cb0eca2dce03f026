package builds

import buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"

// Refusal returns the *BusyError with which Apply would refuse a CreateBuild now, or nil if Apply
// would create a build or return an existing one. Time that passes may free an id, so Refusal may
// return nil for a command that Apply refuses with ErrTooManyRequests.
func (s *State) Refusal(c *buildsv1.CreateBuild) error {
	if c.RequestId != "" {
		if s.Request(c.Requester, c.RequestId) != nil {
			return nil
		}
		if _, _, generated := s.generatedByTime.Min(); !generated && s.level >= requestLimitLevel && s.requests.Len() >= s.requestLimit {
			return &BusyError{ErrTooManyRequests, maxRetryAfter}
		}
	}
	if s.Active(c.Ref) != nil {
		if r, err := s.Join(c.Ref, c.Source, c.Fresh); r != nil || err != nil {
			return nil
		}
	} else if r := s.Newest(c.Ref); r != nil && !c.Force && r.Build.Phase == Succeeded && r.EndedIndex > c.CheckedIndex {
		return nil
	}
	return s.queueRefusal(c.Requester)
}
