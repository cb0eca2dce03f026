package workload

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// CopiesTimeout is how long the end of a workload's output waits for the copies of its log without
// any progress. A copy that is away or hangs is replaced much earlier, if there is a node for it.
const CopiesTimeout = 5 * time.Minute

// ErrCopiesAway ends an attempt after CopiesTimeout. The attempt is not counted.
var ErrCopiesAway = errors.New("the other nodes stored nothing of the log for " + CopiesTimeout.String())

// Flush calls Flush of the sink until it succeeds. It gives up with ErrCopiesAway if the copies make
// no progress for the timeout.
func Flush(ctx context.Context, sink Sink, timeout time.Duration) error {
	for {
		held := sink.Held()
		limited, cancel := context.WithTimeout(ctx, timeout)
		err := sink.Flush(limited)
		over := limited.Err() != nil
		switch cancel(); {
		case err == nil || !over || ctx.Err() != nil:
			return err
		case sink.Held() <= held:
			return fmt.Errorf("%w: %w", ErrCopiesAway, err)
		}
	}
}
