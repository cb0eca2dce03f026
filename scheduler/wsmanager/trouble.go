package wsmanager

import (
	"fmt"

	"google.golang.org/grpc/connectivity"
)

// Trouble answers why the workspace manager cannot be used now, or nil. Builds
// wait for it meanwhile.
func (r *Runtime) Trouble() error {
	switch st := r.conn.GetState(); st {
	case connectivity.TransientFailure, connectivity.Shutdown:
		return fmt.Errorf("the workspace manager at %s does not answer: builds that need it wait", r.opts.Address)
	}
	return nil
}
