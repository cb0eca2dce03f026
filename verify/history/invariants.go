package history

import (
	"fmt"
	"slices"
)

// checkRequests checks that all calls with one request id get the same response.
func checkRequests(e *evidence, _ Options) (out []Violation) {
	for _, q := range e.requests {
		for _, r := range q.calls {
			if r.Op.Ref != q.ref {
				out = append(out, Violation{OncePerRequest, q.ref, fmt.Sprintf("request id %s of %s was accepted for %s and for %s", q.id, q.requester, q.ref, r.Op.Ref), []Record{q.calls[0], r}})
				break
			}
		}
		for _, r := range q.responses {
			first := q.responses[0]
			if a, b := first.Out.Build.ID, r.Out.Build.ID; a != b {
				out = append(out, Violation{OncePerRequest, q.ref, fmt.Sprintf("request id %s of %s returned builds %s and %s", q.id, q.requester, a, b), []Record{first, r}})
				break
			}
			if first.Out.Attached != r.Out.Attached {
				out = append(out, Violation{OncePerRequest, q.ref, fmt.Sprintf("request id %s of %s returned attached=%v and attached=%v", q.id, q.requester, first.Out.Attached, r.Out.Attached), []Record{first, r}})
				break
			}
		}
	}
	return out
}

// checkOrigins checks that every build comes from one request for its ref, and that no forced
// request gets the response that the image exists.
func checkOrigins(e *evidence, _ Options) (out []Violation) {
	for _, q := range e.requests {
		for _, r := range q.calls {
			if r.Out.Exists && r.Op.Force {
				out = append(out, Violation{AskedFor, q.ref, "a forced request got the response that the image exists", []Record{r}})
			}
		}
	}
	for _, id := range e.ids {
		b := e.builds[id]
		var creators []Record
		for _, q := range b.requests {
			if q.ref != b.ref {
				out = append(out, Violation{AskedFor, b.ref, fmt.Sprintf("build %s was returned to requests for %s and for %s", id, b.ref, q.ref), []Record{b.requests[0].responses[0], q.responses[0]}})
			}
			if !q.responses[0].Out.Attached {
				creators = append(creators, q.responses[0])
			}
		}
		switch {
		case len(creators) > 1:
			out = append(out, Violation{AskedFor, b.ref, fmt.Sprintf("two requests got the response that they created build %s", id), creators[:2]})
		case len(creators) == 0 && len(e.mayHaveCreated(b)) == 0:
			out = append(out, Violation{AskedFor, b.ref, fmt.Sprintf("a request attached to build %s, which no request can have created", id), []Record{b.requests[0].responses[0]}})
		}
	}
	return out
}

// checkFinal checks that terminal phases do not change, by the versions in the responses, and that
// a build has one digest.
func checkFinal(e *evidence, _ Options) (out []Violation) {
	for _, id := range e.ids {
		b := e.builds[id]
		digest := slices.IndexFunc(b.observations, func(r Record) bool { return r.Out.Build.Phase == Succeeded && r.Out.Build.Digest != "" })
		for _, r := range b.observations {
			s, last := r.Out.Build, b.last.Out.Build
			switch {
			case s.Phase.Terminal() && s.Phase != b.final:
				out = append(out, Violation{Final, b.ref, fmt.Sprintf("build %s was reported as %s and as %s", id, b.final, s.Phase), []Record{b.last, r}})
			case s.Phase.active() && last.Version > 0 && s.Version > last.Version:
				out = append(out, Violation{Final, b.ref, fmt.Sprintf("build %s was %s at version %d and is %s at version %d", id, b.final, last.Version, s.Phase, s.Version), []Record{b.last, r}})
			case s.Phase == Succeeded && s.Digest != "" && s.Digest != b.observations[digest].Out.Build.Digest:
				out = append(out, Violation{OneDigest, b.ref, fmt.Sprintf("build %s succeeded with digests %s and %s", id, b.observations[digest].Out.Build.Digest, s.Digest), []Record{b.observations[digest], r}})
			default:
				continue
			}
			break
		}
	}
	return out
}

// checkCancels checks that no build succeeds after its cancellation was accepted, and that every
// cancelled build has a cancellation.
func checkCancels(e *evidence, _ Options) (out []Violation) {
	for _, id := range e.ids {
		b := e.builds[id]
		switch b.final {
		case Succeeded:
			for _, r := range b.observations {
				if r.Out.Build.CancelRequested {
					out = append(out, Violation{CancelHolds, b.ref, fmt.Sprintf("build %s succeeded although its cancellation was accepted", id), []Record{r, b.last}})
					break
				}
			}
		case Cancelled:
			requested := slices.ContainsFunc(b.cancels, func(r Record) bool {
				return r.Start < b.last.End && (r.Status == Unknown || !r.Out.Detached && !r.Out.TooLate && !r.Out.NotRequester && !r.Out.NotFound)
			})
			if !requested {
				out = append(out, Violation{CancelHolds, b.ref, fmt.Sprintf("build %s is cancelled, but no client cancelled it", id), []Record{b.last}})
			}
		}
	}
	return out
}

// checkEnds checks that every acknowledged build ends.
func checkEnds(e *evidence, o Options) (out []Violation) {
	if o.Unfinished {
		return nil
	}
	for _, id := range e.ids {
		if b := e.builds[id]; b.final == "" {
			calls := []Record{b.requests[0].responses[0]}
			if n := len(b.observations); n > 0 && b.observations[n-1].Start != calls[0].Start {
				calls = append(calls, b.observations[n-1])
			}
			out = append(out, Violation{Ends, b.ref, fmt.Sprintf("build %s was acknowledged and never seen to end", id), calls})
		}
	}
	return out
}

// checkAttached checks that requests attach only to builds that were active at some time after the
// start of the request.
func checkAttached(e *evidence, _ Options) (out []Violation) {
	for _, id := range e.ids {
		b := e.builds[id]
		for _, q := range b.requests {
			r := q.responses[0]
			if !r.Out.Attached {
				continue
			}
			// The response may show a later phase: the service proposes again within one call if the
			// outcome of its proposal is unknown.
			if b.final != "" && b.last.End < q.start {
				out = append(out, Violation{AttachActive, b.ref, fmt.Sprintf("a request attached to build %s, which had %s before it started", id, b.final.verb()), []Record{b.last, r}})
			}
		}
	}
	return out
}
