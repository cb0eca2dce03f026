package cluster

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// logger returns the logger for Raft. It writes to Config.Logger. Lines that Raft logs at info
// level get the debug level, and lower levels are dropped.
func (n *Node) logger() hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Info, Output: io.Discard})
	l.RegisterSink(slogSink{n.cfg.Logger.With("node", n.cfg.Name)})
	return l
}

type slogSink struct{ log *slog.Logger }

// Accept writes one log line of Raft to slog.
func (s slogSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	to := map[hclog.Level]slog.Level{
		hclog.Warn: slog.LevelWarn, hclog.Error: slog.LevelError, hclog.Info: slog.LevelDebug,
	}[level]
	if level < hclog.Info {
		return
	}
	if name != "" {
		msg = name + ": " + msg
	}
	s.log.Log(context.Background(), to, msg, args...)
}
