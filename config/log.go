package config

import (
	"io"
	"log/slog"
)

// Log describes the node's own log.
type Log struct {
	Format string `json:"format" doc:"'json' or 'text'."`
	Level  string `json:"level" doc:"'debug', 'info', 'warn' or 'error'."`
}

// Logger returns a logger that writes to w with the configured level and format. The configuration
// has to be valid.
func (c Log) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // Validate has checked it
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "text" {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

func (c Log) validate(bad report) {
	if c.Format != "json" && c.Format != "text" {
		bad("log.format", "must be json or text")
	}
	switch c.Level {
	case "debug", "info", "warn", "error":
	default:
		bad("log.level", "must be debug, info, warn or error")
	}
}
