package builds

import (
	"time"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// initialSettings returns the settings of a state before the first PutSettings. They never change: a
// node of a newer version that applies the log from its beginning gets the same state as one that
// continues with a snapshot of an older version. The leader commits other settings.
func initialSettings() *buildsv1.Settings {
	return SettingsAt(DefaultSettings(), 1)
}

// SettingsAt returns settings without the fields that versions of a feature level do not know. The
// leader commits these.
func SettingsAt(set *buildsv1.Settings, level uint32) *buildsv1.Settings {
	set = proto.CloneOf(set)
	if level < requesterQueueLevel {
		set.QueuePerRequester = 0
	}
	return set
}

// DefaultSettings returns the default limits of this version.
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
