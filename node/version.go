package node

import (
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// version is what the Go toolchain knows of this binary.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return info.Main.Version + " " + s.Value
		}
	}
	return info.Main.Version
}

// tellVersion exports the version, as dashboards of Gitpod installs read it.
func exportVersion(reg prometheus.Registerer) {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "gitpod_server_version", Help: "1, with the version of this binary.",
	}, []string{"version"})
	reg.MustRegister(g)
	g.WithLabelValues(Version()).Set(1)
}
