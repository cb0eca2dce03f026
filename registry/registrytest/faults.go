package registrytest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"time"
)

// Fail responds with a status and an empty body.
func (p *Proxy) Fail(m Matcher, times, status int) {
	p.FailWith(m, times, status, nil)
}

// FailWith responds with a status and headers, for example Retry-After.
func (p *Proxy) FailWith(m Matcher, times, status int, header http.Header) {
	p.On(m, times, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for k, v := range header {
			w.Header()[k] = v
		}
		w.WriteHeader(status)
	})
}

// Hang reads the request and never responds, until the client disconnects or the test ends.
func (p *Proxy) Hang(m Matcher, times int) {
	p.On(m, times, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		p.wait(r)
		panic(http.ErrAbortHandler) // returning would send an empty response with status 200
	})
}

// Hold delays all requests that match until release is called (once) or the test ends. Then they
// get the registry's response.
func (p *Proxy) Hold(m Matcher) (release func()) {
	released := make(chan struct{})
	p.On(m, -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		select {
		case <-released:
			next.ServeHTTP(w, r)
		case <-p.gone:
		}
	})
	return func() { close(released) }
}

// HangInBody sends the header and the first bytes of the body, and then hangs.
func (p *Proxy) HangInBody(m Matcher, times, after int) {
	p.On(m, times, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		p.partly(w, r, next, after)
		p.wait(r)
	})
}

// Reset sends the header and the first bytes of the body, and closes the connection.
func (p *Proxy) Reset(m Matcher, times, after int) {
	p.On(m, times, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		p.partly(w, r, next, after)
		panic(http.ErrAbortHandler)
	})
}

// Corrupt flips a bit in the first byte of the body.
func (p *Proxy) Corrupt(m Matcher, times int) {
	p.On(m, times, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(w, r, next)
		if b := rec.Body.Bytes(); len(b) > 0 {
			b[0] ^= 1
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()) // the client may be gone
	})
}

// Slow sends the whole body in pieces with pauses in between.
func (p *Proxy) Slow(m Matcher, times, pieces int, pause time.Duration) {
	p.On(m, times, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := record(w, r, next)
		w.WriteHeader(rec.Code)
		b := rec.Body.Bytes()
		for i := range pieces {
			_, _ = w.Write(b[i*len(b)/pieces : (i+1)*len(b)/pieces])
			_ = http.NewResponseController(w).Flush()
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-r.Context().Done():
				timer.Stop()
				return
			}
		}
	})
}

// Redirect redirects clients to another base URL with the same path.
func (p *Proxy) Redirect(m Matcher, times int, base string) {
	p.On(m, times, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		http.Redirect(w, r, base+r.URL.Path, http.StatusTemporaryRedirect)
	})
}

func (p *Proxy) wait(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-p.gone:
	}
}

// partly sends the header and the first bytes of the registry's response.
func (p *Proxy) partly(w http.ResponseWriter, r *http.Request, next http.Handler, n int) {
	rec := record(w, r, next)
	w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()[:min(n, rec.Body.Len())])
	if err := http.NewResponseController(w).Flush(); err != nil {
		panic(fmt.Sprintf("flush: %v", err))
	}
}

// record gets the registry's response and copies its header to w.
func record(w http.ResponseWriter, r *http.Request, next http.Handler) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	next.ServeHTTP(rec, r)
	for k, v := range rec.Header() {
		w.Header()[k] = v
	}
	return rec
}
