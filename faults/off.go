//go:build !faults

package faults

import (
	"context"
	"net/http"
	"time"
)

// Enabled tells that this binary can be hurt.
const Enabled = false

// Disk is called before each write of the replicated log.
func Disk() error { return nil }

// Torn answers that writes are whole.
func Torn([]byte) (int, bool) { return 0, false }

// Clock answers the time that the node believes in.
func Clock(t time.Time) time.Time { return t }

// Message is called before each message to a node.
func Message(context.Context, string) error { return nil }

// Mutant tells that the named defect is switched on.
func Mutant(string) bool { return false }

// Handler answers nil: there is nothing to control.
func Handler() http.Handler { return nil }
