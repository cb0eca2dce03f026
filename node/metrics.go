package node

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// counters count builds. Existing dashboards of Gitpod read started and done
// (docs/gitpod-contract.md, section 8).
type counters struct {
	started prometheus.Counter
	done    *prometheus.CounterVec // by success
	omitted prometheus.Counter
	expired prometheus.Counter
}

// newCounters returns registered counters.
func newCounters(reg prometheus.Registerer) counters {
	c := counters{
		started: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gitpod_image_builder_builds_started_total", Help: "Created builds. The node whose command created a build counts it.",
		}),
		done: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gitpod_image_builder_builds_done_total", Help: "Ended builds. The node whose command ended a build counts it.",
		}, []string{"success"}),
		omitted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_list_left_off_total", Help: "Builds that a response of Gitpod's ListBuilds omitted, because a response has at most 4 MiB.",
		}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_logs_expired_total", Help: "Builds whose logs were removed by retention. The leader counts them.",
		}),
	}
	reg.MustRegister(c.started, c.done, c.omitted, c.expired)
	c.done.WithLabelValues("true")
	c.done.WithLabelValues("false")
	return c
}

// created counts a build that a command of this process has created.
func (c counters) created(*imagebuilderv1.Build) { c.started.Inc() }

// leftOff counts n builds that a response of ListBuilds omitted.
func (c counters) leftOff(n int) { c.omitted.Add(float64(n)) }

// logsExpired counts n builds whose logs were removed by retention.
func (c counters) logsExpired(n int) { c.expired.Add(float64(n)) }

// ended counts a build that a command of this process has ended.
func (c counters) ended(r *buildsv1.Record) {
	if r.Build.Phase == builds.Succeeded {
		c.done.WithLabelValues("true").Inc()
	} else {
		c.done.WithLabelValues("false").Inc()
	}
}

// countingHandler is a log handler that counts the lines by level (gitpod_logs_total, which
// dashboards of Gitpod read).
type countingHandler struct {
	slog.Handler
	lines *prometheus.CounterVec
}

// countLog returns a logger that writes to log and counts the lines.
func countLog(log *slog.Logger, reg prometheus.Registerer) *slog.Logger {
	lines := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gitpod_logs_total", Help: "Lines of the log of this node, by level.",
	}, []string{"level"})
	reg.MustRegister(lines)
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		lines.WithLabelValues(levelName(level))
	}
	return slog.New(countingHandler{log.Handler(), lines})
}

// Handle counts and writes a line.
func (c countingHandler) Handle(ctx context.Context, r slog.Record) error {
	c.lines.WithLabelValues(levelName(r.Level)).Inc()
	return c.Handler.Handle(ctx, r)
}

// WithAttrs returns a handler with attributes that counts in the same metric.
func (c countingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return countingHandler{c.Handler.WithAttrs(attrs), c.lines}
}

// WithGroup returns a handler with a group that counts in the same metric.
func (c countingHandler) WithGroup(name string) slog.Handler {
	return countingHandler{c.Handler.WithGroup(name), c.lines}
}

// levelName returns the name that the dashboards use for a level.
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
