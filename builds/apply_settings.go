package builds

import (
	"errors"
	"fmt"

	"github.com/tidwall/btree"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// putSettings replaces the settings of the cluster.
func (tx *change) putSettings(c *buildsv1.PutSettings) Result {
	if c.Settings == nil { // nil would become the defaults when a snapshot is restored
		return Result{Err: errors.New("the command has no settings")}
	}
	tx.settings = c.Settings
	tx.event.Cluster = true
	tx.reap(reapsPerApply)
	return Result{}
}

// setFeatureLevel raises the feature level. It refuses a smaller level.
func (tx *change) setFeatureLevel(c *buildsv1.SetFeatureLevel) Result {
	if c.GetLevel() < tx.level {
		return Result{Err: fmt.Errorf("the feature level is %d and cannot go back to %d", tx.level, c.GetLevel())}
	}
	tx.raiseLevel(c.GetLevel())
	tx.event.Cluster = true
	return Result{}
}

// raiseLevel raises the feature level and gives the state the form of the new level.
func (tx *change) raiseLevel(level uint32) {
	before := tx.level
	tx.level = max(before, level)
	if before < successorDeadlineLevel && tx.level >= successorDeadlineLevel {
		tx.successors.Scan(func(_, id string) bool {
			tx.deadlines.Delete(deadlineKey(tx.Build(id)))
			return true
		})
	}
	if tx.level >= newestLevel {
		tx.newestByRef = new(btree.Map[string, string])
	}
	if tx.level >= creationOrderLevel {
		tx.byRefAndID = newTree(orderByRefAndID)
	}
	if before < RevokeLevel && tx.level >= RevokeLevel {
		tx.stampStops()
	}
}
