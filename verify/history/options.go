package history

import "time"

// Options configure Judge. The zero value is the strictest.
type Options struct {
	// Timeout limits the search for an order of the calls; a minute if zero.
	Timeout time.Duration
	// Visualization is the file to which Judge writes porcupine's interactive page: of the first ref
	// with a violation or, if there is none, of the whole history. No page if empty.
	Visualization string
	// Unfinished is set if the history stops early, so that builds may be active at its end.
	Unfinished bool
	// Retention is set if the service may have removed ended builds before the end.
	Retention bool
}
