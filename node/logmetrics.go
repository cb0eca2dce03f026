package node

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
)

// countedLog is a log that counts its lines by level, as the dashboards of
// Gitpod installs read it (gitpod_logs_total).
type countingHandler struct {
	slog.Handler
	lines *prometheus.CounterVec
}

// countLog answers the log with its lines counted.
func countLog(log *slog.Logger, reg prometheus.Registerer) *slog.Logger {
	lines := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gitpod_logs_total", Help: "Lines of this node's own log, by level.",
	}, []string{"level"})
	reg.MustRegister(lines)
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		lines.WithLabelValues(levelName(level))
	}
	return slog.New(countingHandler{log.Handler(), lines})
}

// Handle counts a line that is written.
func (c countingHandler) Handle(ctx context.Context, r slog.Record) error {
	c.lines.WithLabelValues(levelName(r.Level)).Inc()
	return c.Handler.Handle(ctx, r)
}

// WithAttrs keeps the count.
func (c countingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return countingHandler{c.Handler.WithAttrs(attrs), c.lines}
}

// WithGroup keeps the count.
func (c countingHandler) WithGroup(name string) slog.Handler {
	return countingHandler{c.Handler.WithGroup(name), c.lines}
}

// levelName is a level in the words of the dashboards.
func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warning"
	}
	return "error"
}

// tellVersion exports the version, as dashboards of Gitpod installs read it.
func exportVersion(reg prometheus.Registerer) {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "gitpod_server_version", Help: "1, with the version of this binary.",
	}, []string{"version"})
	reg.MustRegister(g)
	g.WithLabelValues(Version()).Set(1)
}
