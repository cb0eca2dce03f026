package registry

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progressLines writes progress lines for people. It is safe for concurrent use.
type progressLines struct {
	mu sync.Mutex
	w  io.Writer
}

// done reports that a blob or manifest is at the destination, and how it came there.
func (p *progressLines) done(role, digest string, size int64, how string) {
	p.line("%s %s %s %s", role, short(digest), humanSize(size), how)
}

// retry reports that a try failed and when the next begins.
func (p *progressLines) retry(role, digest string, size int64, err error, pause time.Duration) {
	p.line("%s %s %s failed: %v; trying again in %s", role, short(digest), humanSize(size), err, pause.Round(10*time.Millisecond))
}

// resume reports that a transfer broke off and continues at a byte offset.
func (p *progressLines) resume(role, digest string, size int64, err error, at int64) {
	p.line("%s %s %s failed: %v; continuing at %s", role, short(digest), humanSize(size), err, humanSize(at))
}

// close drops all further lines. A transfer that is shared with other copies may outlive the copy
// that began it.
func (p *progressLines) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.w = io.Discard
}

func (p *progressLines) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.w, format+"\n", args...) // an error of the writer does not fail the copy
}

// short returns the algorithm and the first 8 digits of a digest.
func short(digest string) string { return digest[:min(len(digest), len("sha256:")+8)] }

// humanSize formats a number of bytes in decimal units with one digit.
func humanSize(n int64) string {
	size := float64(n)
	for _, unit := range []string{"B", "kB", "MB"} {
		if size < 1000 {
			if unit == "B" {
				return fmt.Sprintf("%d B", n)
			}
			return fmt.Sprintf("%.1f %s", size, unit)
		}
		size /= 1000
	}
	return fmt.Sprintf("%.1f GB", size)
}
