package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// ErrKilled is a cause for the end of the context of Run. Run then ends like a killed process: it
// does not hand over leadership, does not wait for builds and does not notify clients. Only tests
// use it.
var ErrKilled = errors.New("the node was killed")

// Run opens the node, runs it until ctx ends or the node fails, and closes it in reverse order of
// opening. It blocks. After the end of ctx it returns within the limits of the configuration
// (shutdown.drain, shutdown.grace and leaveTimeout). An error says why the node could not start,
// had to stop, or could not close a part. Run must be called once.
func (n *Node) Run(ctx context.Context) (err error) {
	defer n.endStreams()
	if err := os.MkdirAll(n.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	if err := writable(n.cfg.DataDir); err != nil {
		return err
	}
	listeners, err := n.listen()
	if err != nil {
		return err
	}
	defer listeners.close()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	n.work = work
	if n.tracing, err = n.openTracing(); err != nil {
		return err
	}
	defer n.closeTracing()
	if err := n.openParts(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.closeLogs(), n.closeRegistry()) }()
	if err := n.openCluster(ctx, listeners.peer); err != nil {
		return err
	}
	defer func() {
		n.logs.StopCopying()
		err = errors.Join(err, n.cluster.Close(), n.closeRuntimes())
	}()

	var wg sync.WaitGroup
	failed := make(chan error, 8)
	start := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(work); err != nil {
				failed <- err
			}
		})
	}
	srv, err := n.serve(listeners, failed)
	if err != nil {
		return err
	}
	start(n.begin)
	start(n.reapLogs)
	start(n.keepLease)
	start(n.watchReadiness)
	start(n.probeLogs)
	start(n.watchForeign)
	start(n.repeatRefreshes)
	close(n.opened)

	grace := time.Duration(n.cfg.Shutdown.Grace)
	select {
	case <-ctx.Done():
		n.stopping.Store(true)
		if errors.Is(context.Cause(ctx), ErrKilled) {
			grace = 0
			stopWork()
			_ = n.cluster.Close() // calls that wait for the cluster end at once
			break
		}
		n.log.Info("shutting down", "grace", grace)
		n.handOver()
		leaving := n.scaledDown()
		n.drain(work)
		if leaving {
			n.leave(work)
		}
	case err = <-failed:
	case err = <-n.cluster.Fatal():
		n.log.Error("the node has to stop", "err", err)
	}
	stopWork()
	wg.Wait()
	srv.stop(grace)
	return err
}
