package node

import (
	"github.com/image-builder-ha/image-builder/config"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

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
