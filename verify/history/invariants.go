package history

import (
	"fmt"
	"slices"
)

// checkRequests wants one answer per request id.
func checkRequests(e *evidence, _ Options) (out []Violation) {
	for _, q := range e.requests {
		for _, r := range q.calls {
			if r.Op.Ref != q.ref {
				out = append(out, Violation{OncePerRequest, q.ref, fmt.Sprintf("request id %s of %s was accepted for %s and for %s", q.id, q.requester, q.ref, r.Op.Ref), []Record{q.calls[0], r}})
				break
			}
		}
		for _, r := range q.answers {
			first := q.answers[0]
			if a, b := first.Out.Build.ID, r.Out.Build.ID; a != b {
				out = append(out, Violation{OncePerRequest, q.ref, fmt.Sprintf("request id %s of %s was answered with builds %s and %s", q.id, q.requester, a, b), []Record{first, r}})
				break
			}
			if first.Out.Attached != r.Out.Attached {
				out = append(out, Violation{OncePerRequest, q.ref, fmt.Sprintf("request id %s of %s was answered with attached=%v and attached=%v", q.id, q.requester, first.Out.Attached, r.Out.Attached), []Record{first, r}})
				break
			}
		}
	}
	return out
}

// checkOrigins wants every build to come from one request for its ref, and no
// forced request to be told that the image exists.
func checkOrigins(e *evidence, _ Options) (out []Violation) {
	for _, q := range e.requests {
		for _, r := range q.calls {
			if r.Out.Exists && r.Op.Force {
				out = append(out, Violation{AskedFor, q.ref, "a forced request was answered that the image exists", []Record{r}})
			}
		}
	}
	for _, id := range e.ids {
		b := e.builds[id]
		var makers []Record
		for _, q := range b.requests {
			if q.ref != b.ref {
				out = append(out, Violation{AskedFor, b.ref, fmt.Sprintf("build %s answered requests for %s and for %s", id, b.ref, q.ref), []Record{b.requests[0].answers[0], q.answers[0]}})
			}
			if !q.answers[0].Out.Attached {
				makers = append(makers, q.answers[0])
			}
		}
		switch {
		case len(makers) > 1:
			out = append(out, Violation{AskedFor, b.ref, fmt.Sprintf("two requests were told that they made build %s", id), makers[:2]})
		case len(makers) == 0 && len(e.mayHaveMade(b)) == 0:
			out = append(out, Violation{AskedFor, b.ref, fmt.Sprintf("a request attached to build %s, which no request can have made", id), []Record{b.requests[0].answers[0]}})
		}
	}
	return out
}

// mayHaveMade answers the requests of unknown outcome that may have made a
// build which no answered request made.
func (e *evidence) mayHaveMade(b *build) (out []*request) {
	for _, q := range e.requests {
		if q.ref == b.ref && q.maybe() && q.start < b.known {
			out = append(out, q)
		}
	}
	return out
}

// checkFinal wants terminal phases to stay, by the versions in the answers,
// and one digest per build.
func checkFinal(e *evidence, _ Options) (out []Violation) {
	for _, id := range e.ids {
		b := e.builds[id]
		digest := slices.IndexFunc(b.sights, func(r Record) bool { return r.Out.Build.Phase == Succeeded && r.Out.Build.Digest != "" })
		for _, r := range b.sights {
			s, last := r.Out.Build, b.last.Out.Build
			switch {
			case s.Phase.Terminal() && s.Phase != b.final:
				out = append(out, Violation{Final, b.ref, fmt.Sprintf("build %s was seen as %s and as %s", id, b.final, s.Phase), []Record{b.last, r}})
			case s.Phase.active() && last.Version > 0 && s.Version > last.Version:
				out = append(out, Violation{Final, b.ref, fmt.Sprintf("build %s was %s at version %d and is %s at version %d", id, b.final, last.Version, s.Phase, s.Version), []Record{b.last, r}})
			case s.Phase == Succeeded && s.Digest != "" && s.Digest != b.sights[digest].Out.Build.Digest:
				out = append(out, Violation{OneDigest, b.ref, fmt.Sprintf("build %s succeeded with digests %s and %s", id, b.sights[digest].Out.Build.Digest, s.Digest), []Record{b.sights[digest], r}})
			default:
				continue
			}
			break
		}
	}
	return out
}

// checkCancels wants no success after a cancellation was accepted, and a
// cancellation behind every cancelled build.
func checkCancels(e *evidence, _ Options) (out []Violation) {
	for _, id := range e.ids {
		b := e.builds[id]
		switch b.final {
		case Succeeded:
			for _, r := range b.sights {
				if r.Out.Build.CancelRequested {
					out = append(out, Violation{CancelHolds, b.ref, fmt.Sprintf("build %s succeeded although its cancellation was accepted", id), []Record{r, b.last}})
					break
				}
			}
		case Cancelled:
			asked := slices.ContainsFunc(b.cancels, func(r Record) bool {
				return r.Start < b.last.End && (r.Status == Unknown || !r.Out.Detached && !r.Out.TooLate && !r.Out.NotRequester && !r.Out.NotFound)
			})
			if !asked {
				out = append(out, Violation{CancelHolds, b.ref, fmt.Sprintf("build %s is cancelled, but nobody cancelled it", id), []Record{b.last}})
			}
		}
	}
	return out
}

// checkEnds wants every acknowledged build to end.
func checkEnds(e *evidence, o Options) (out []Violation) {
	if o.Unfinished {
		return nil
	}
	for _, id := range e.ids {
		if b := e.builds[id]; b.final == "" {
			calls := []Record{b.requests[0].answers[0]}
			if n := len(b.sights); n > 0 && b.sights[n-1].Start != calls[0].Start {
				calls = append(calls, b.sights[n-1])
			}
			out = append(out, Violation{Ends, b.ref, fmt.Sprintf("build %s was acknowledged and never seen to end", id), calls})
		}
	}
	return out
}

// checkAttached wants requests to join builds that were active at some time
// after the request had started.
func checkAttached(e *evidence, _ Options) (out []Violation) {
	for _, id := range e.ids {
		b := e.builds[id]
		for _, q := range b.requests {
			r := q.answers[0]
			if !r.Out.Attached {
				continue
			}
			// The answer may show a later phase: the service asks again inside one
			// call where the outcome of its proposal is unknown.
			if b.final != "" && b.last.End < q.start {
				out = append(out, Violation{AttachActive, b.ref, fmt.Sprintf("a request attached to build %s, which had %s before it started", id, b.final.verb()), []Record{b.last, r}})
			}
		}
	}
	return out
}

func (p Phase) verb() string {
	if p == Cancelled {
		return "been cancelled"
	}
	return string(p)
}
