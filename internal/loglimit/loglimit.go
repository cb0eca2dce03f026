// Package loglimit limits how often a log text is written.
package loglimit

import (
	"sync"
	"time"
)

// Limiter remembers which texts were written lately. The zero value is ready.
type Limiter struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const (
	interval = 10 * time.Second
	maxTexts = 256
)

// Allow returns true for a text at most once in 10 s.
func (l *Limiter) Allow(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Sub(l.last[text]) < interval {
		return false
	}
	if l.last == nil || len(l.last) >= maxTexts {
		l.last = map[string]time.Time{}
	}
	l.last[text] = now
	return true
}
