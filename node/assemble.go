package node

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/config"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/ecr"
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

// watchState exports what the state and this node hold.
func (s *server) watchState() {
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) {
		s.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f))
	}
	for phase, count := range map[string]func(builds.Counts) int{
		"queued": func(c builds.Counts) int { return c.Queued },
		"live":   func(c builds.Counts) int { return c.Live },
		"ended":  func(c builds.Counts) int { return c.History },
	} {
		gauge("image_builder_builds", "Builds in the state.", prometheus.Labels{"phase": phase}, func() (n float64) {
			s.store.Read(func(st *builds.State) { n = float64(count(st.Counts())) })
			return n
		})
	}
	gauge("image_builder_attempts_running", "Attempts that this node runs.", nil, func() float64 { return float64(s.owner.Running()) })
	gauge("image_builder_attempts_capacity", "Attempts that this node runs at most.", nil, func() float64 { return float64(s.cfg.Builds.RunningPerNode) })
	gauge("image_builder_applied_index", "Index of the last applied command.", nil, func() float64 { return float64(s.node.Applied()) })
	gauge("image_builder_leader", "1 on the leader.", nil, func() float64 {
		if s.node.Status().Role == "Leader" {
			return 1
		}
		return 0
	})
}

// openKeyring reads the sealing keys. A single node without any makes one,
// beside its data directory and not in it.
func openKeyring(cfg config.Config, log *slog.Logger) (*secrets.Keyring, error) {
	path := cfg.Sealing.KeyFile
	if path == "" {
		path = strings.TrimRight(filepath.Clean(cfg.DataDir), "/") + ".sealing-key.json"
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if err := secrets.NewKeyFile(path); err != nil {
				return nil, err
			}
			log.Info("made a sealing key; keep it, the data directory is of no use without", "file", path)
		}
	}
	return secrets.LoadKeyring(path)
}

func RegistryOptions(cfg config.Config, log *slog.Logger, metrics prometheus.Registerer) registry.Options {
	return registry.Options{
		DockerConfigFile: cfg.Orchestrator.PullSecretFile,
		WorkspaceHost:    repositories(cfg).WorkspaceHost,
		Insecure:         cfg.Registry.InsecureHosts,
		CAFile:           cfg.Registry.CAFile,
		Timeout:          time.Duration(cfg.Registry.Timeout),
		AllowHosts:       append([]string{repositories(cfg).BaseHost, repositories(cfg).WorkspaceHost}, cfg.Registry.AllowHosts...),
		AllowLoopback:    cfg.Registry.AllowLoopback,
		Providers:        cfg.Providers(),
		AllowedByDefault: ecr.Private,
		Hosts:            cfg.Registry.HostOptions(),
		Proxy:            http.ProxyFromEnvironment,
		Concurrency:      cfg.Registry.Concurrency,
		Bandwidth:        cfg.Registry.Bandwidth,
		CacheFor:         time.Duration(cfg.Registry.CacheFor),
		Registerer:       metrics,
		Logger:           log,
	}
}

func repositories(cfg config.Config) api.Repositories {
	r := api.Repositories{Base: cfg.Orchestrator.BaseImageRepository, Workspace: cfg.Orchestrator.WorkspaceImageRepository}
	r.BaseHost, r.WorkspaceHost = hostOf(r.Base), hostOf(r.Workspace)
	return r
}

func hostOf(repository string) string {
	named, err := registry.ParseRef(repository)
	if err != nil {
		return ""
	}
	host, _, _ := strings.Cut(named.Name(), "/")
	return host
}

func settingsOf(cfg config.Config) *buildsv1.Settings {
	return &buildsv1.Settings{
		HistoryTotal:        cfg.History.Total,
		HistoryPerRequester: cfg.History.PerRequester,
		HistoryMaxAgeNanos:  int64(cfg.History.MaxAge),
		HistoryMinAgeNanos:  int64(cfg.History.MinAge),
		RequestIdAgeNanos:   int64(cfg.RequestIDs.Age),
		Attempts:            uint32(cfg.Builds.Attempts),
		UncountedAttempts:   uint32(cfg.Builds.UncountedAttempts),
		RetryBaseNanos:      int64(cfg.Builds.RetryBackoff),
		RetryMaxNanos:       int64(cfg.Builds.RetryBackoffMax),
		RunningTotal:        uint32(cfg.Builds.RunningTotal),
		RunningPerRequester: uint32(cfg.Builds.RunningPerRequester),
		QueueTotal:          uint32(cfg.Builds.QueueTotal),
	}
}

// reapInterval is how often a node looks for logs that retention no longer
// keeps.
const reapInterval = time.Minute

// reapLogs removes logs that nobody needs any more, where this node knows all
// that the cluster has decided.
func (s *server) reapLogs(ctx context.Context) error {
	for ctxutil.Sleep(ctx, reapInterval) {
		if !s.started.Load() {
			continue
		}
		index, err := s.raft.ReadIndex(ctx)
		if err == nil {
			err = s.raft.WaitApplied(ctx, index)
		}
		if err == nil {
			s.logs.Reap()
		}
	}
	return nil
}

// probeLogs finds out whether logs can be written again after they could not.
func (s *server) probeLogs(ctx context.Context) error {
	for ctxutil.Sleep(ctx, 2*time.Second) {
		s.logs.Probe()
	}
	return nil
}
