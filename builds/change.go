package builds

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Result is the outcome of a command for its proposer.
type Result struct {
	// Build is the build after the command, nil if the command concerns none.
	Build *imagebuilderv1.Build
	// Attached reports that the request joined an existing build.
	Attached bool
	// Repeated reports that the request id was known, so that the command had no further effect.
	Repeated bool
	// Detached reports that the requester left the build, which continues for other requesters.
	Detached bool
	// Existed reports that the entry to delete or change existed.
	Existed bool
	// Refused counts the items of a command that had no effect: assignments and results that were
	// based on an older state, and builds that StopOverdue did not stop.
	Refused int
	// More reports that the command did only a part of its work, because it is bounded. The proposer
	// proposes it again.
	More bool
	// Refs counts the cached references that the command changed.
	Refs int
	// Err is the reason why the command was refused. A refused command changed nothing.
	Err error
}

// Event describes the changes of one command.
type Event struct {
	// Index is the log index of the command.
	Index uint64
	// Changed holds the new versions of the builds that changed.
	Changed []*buildsv1.Record
	// Removed holds the ids of the builds that were removed.
	Removed []string
	// Cluster reports that nodes or settings changed, which may let queued builds start.
	Cluster bool
	// Cached reports that cached references or their settings changed.
	Cached bool
	// Requested holds the cached references for which a refresh was requested.
	Requested []string
}

// change is the application of one command: the state, and the changes so far.
type change struct {
	*State
	event Event
	// changed has the place of each build in event.Changed. It is made once there are many.
	changed map[string]int
	// over has the requesters of the builds that this command ended and that may have too many ended
	// builds, without duplicates, in the order of the ends.
	over []string
}

// now returns the time of the state.
func (tx *change) now() *timestamppb.Timestamp {
	return timestamppb.New(time.Unix(0, tx.time))
}

// put stores an edited record as the newest version of its build.
func (tx *change) put(r *buildsv1.Record) {
	r.Build.Version = tx.index
	tx.State.put(r)
	if i := tx.changedAt(r.Build.Id); i >= 0 {
		tx.event.Changed[i] = r
		return
	}
	if tx.changed != nil {
		tx.changed[r.Build.Id] = len(tx.event.Changed)
	}
	tx.event.Changed = append(tx.event.Changed, r)
}

// scannedChanges is the number of changed builds up to which a command searches them one by one.
const scannedChanges = 8

// changedAt returns the place of a build in event.Changed, or -1.
func (tx *change) changedAt(id string) int {
	if len(tx.event.Changed) <= scannedChanges {
		return slices.IndexFunc(tx.event.Changed, func(r *buildsv1.Record) bool { return r.Build.Id == id })
	}
	if tx.changed == nil {
		tx.changed = make(map[string]int)
		for i, r := range tx.event.Changed {
			tx.changed[r.Build.Id] = i
		}
	}
	if i, ok := tx.changed[id]; ok {
		return i
	}
	return -1
}
