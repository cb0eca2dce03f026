//go:build !faults

package faults

import (
	"context"
	"net/http"
	"time"
)

// Enabled reports whether this binary supports faults.
const Enabled = false

// Disk is called before each write of the replicated log. It returns the error of that write.
func Disk() error { return nil }

// Torn reports whether the next write is torn. It never is in this binary.
func Torn([]byte) (int, bool) { return 0, false }

// Clock returns the time of the node's clock.
func Clock(t time.Time) time.Time { return t }

// Message is called before each message to a node. It returns an error if the message is lost.
func Message(context.Context, string) error { return nil }

// Mutant reports whether the defect with that name is on.
func Mutant(string) bool { return false }

// Handler returns nil: this binary has no faults to control.
func Handler() http.Handler { return nil }
