//go:build !faults

package faults

import (
	"context"
	"net/http"
	"time"
)

// Enabled reports whether this binary supports faults.
const Enabled = false

// Disk is called before each write of the replicated log and returns the error to inject. Here it
// returns nil.
func Disk() error { return nil }

// Torn returns how many bytes of a write reach the file before the process dies, and whether it
// dies. Here it never dies.
func Torn([]byte) (int, bool) { return 0, false }

// Clock returns the time of the node's clock, given that of the machine. Here both are the same.
func Clock(t time.Time) time.Time { return t }

// Message is called before each message to a node. It returns an error if the message is lost. Here
// no message is lost.
func Message(context.Context, string) error { return nil }

// Mutant reports whether the defect with that name is on. Here no defect is on.
func Mutant(string) bool { return false }

// Handler returns nil: this binary has no faults to control.
func Handler() http.Handler { return nil }
