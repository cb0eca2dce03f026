package builds

import (
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// DefaultSettings returns the limits of a new cluster.
func DefaultSettings() *buildsv1.Settings {
	return &buildsv1.Settings{
		HistoryTotal:        10000,
		HistoryPerRequester: 2000,
		HistoryMaxAgeNanos:  int64(7 * 24 * time.Hour),
		HistoryMinAgeNanos:  int64(10 * time.Minute),
		RequestIdAgeNanos:   int64(24 * time.Hour),
		Attempts:            3,
		UncountedAttempts:   10,
		RetryBaseNanos:      int64(time.Second),
		RetryMaxNanos:       int64(time.Minute),
		QueueTotal:          100000,
		QueuePerRequester:   50000,
	}
}
