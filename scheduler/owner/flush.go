package owner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// copiesTimeout is how long the end of a workload's output waits for the copies of its log without
// any progress. A copy that is away or hangs is replaced much earlier, if there is a node for it.
const copiesTimeout = 5 * time.Minute

// errCopiesAway ends an attempt after copiesTimeout. The attempt is not counted.
var errCopiesAway = errors.New("the other nodes stored nothing of the log for " + copiesTimeout.String())

// flush calls Flush of the sink until it succeeds. It gives up with errCopiesAway if the copies make
// no progress for copiesTimeout.
func flush(ctx context.Context, sink workload.Sink) error {
	for {
		held := sink.Held()
		limited, cancel := context.WithTimeout(ctx, copiesTimeout)
		err := sink.Flush(limited)
		over := limited.Err() != nil
		switch cancel(); {
		case err == nil || !over || ctx.Err() != nil:
			return err
		case sink.Held() <= held:
			return fmt.Errorf("%w: %w", errCopiesAway, err)
		}
	}
}
