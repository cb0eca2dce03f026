package node

import (
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
)

// Version returns the version of this binary and the commit that it was built from, as the Go
// toolchain has recorded them; "unknown" if it has not.
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

// exportVersion registers the metric with the version that dashboards of Gitpod read.
func exportVersion(reg prometheus.Registerer) {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "gitpod_server_version", Help: "Always 1. The label is the version of this binary.",
	}, []string{"version"})
	reg.MustRegister(g)
	g.WithLabelValues(Version()).Set(1)
}
