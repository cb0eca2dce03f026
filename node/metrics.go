package node

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// counters are the metrics that existing Gitpod dashboards read.
type counters struct {
	started prometheus.Counter
	done    *prometheus.CounterVec
	left    prometheus.Counter
	expired prometheus.Counter
}

func newCounters(reg prometheus.Registerer) counters {
	c := counters{
		started: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gitpod_image_builder_builds_started_total", Help: "Builds created by commands of this node; the sum over all nodes is the number of builds.",
		}),
		done: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gitpod_image_builder_builds_done_total", Help: "Builds ended by commands of this node; the sum over all nodes is the number of builds.",
		}, []string{"success"}),
		left: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_list_left_off_total", Help: "Builds for which an answer of Gitpod's ListBuilds, of 4 MiB, had had no room.",
		}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_logs_expired_total", Help: "Builds whose logs this node, as the leader, removed by retention.",
		}),
	}
	reg.MustRegister(c.started, c.done, c.left, c.expired)
	c.done.WithLabelValues("true")
	c.done.WithLabelValues("false")
	return c
}

func (c counters) created(*imagebuilderv1.Build) { c.started.Inc() }

func (c counters) leftOff(n int) { c.left.Add(float64(n)) }

func (c counters) logsExpired(n int) { c.expired.Add(float64(n)) }

func (c counters) ended(r *buildsv1.Record) {
	if r.Build.Phase == builds.Succeeded {
		c.done.WithLabelValues("true").Inc()
	} else {
		c.done.WithLabelValues("false").Inc()
	}
}

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
