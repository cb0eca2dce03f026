package fsm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/snapshot"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Apply applies one entry of the log, or passes over it while the state is held.
func (f *FSM) Apply(l *raft.Log) any {
	f.working <- struct{}{}
	defer func() { <-f.working }()
	f.last = l.Index
	if f.held || l.Index <= f.contained {
		return ErrHeld
	}
	return f.apply(l)
}

// skipTo continues with a later state of another node. The entries that it contains count as
// applied. The caller holds working.
func (f *FSM) skipTo(raw []byte) any {
	at, err := f.replace(bytes.NewReader(raw))
	if err != nil {
		return f.fail(fmt.Errorf("continue with the state of the leader: %w", err))
	}
	f.contained = at.Index - at.Offset
	return ErrHeld
}

// apply applies one entry of the log. The caller holds working.
func (f *FSM) apply(l *raft.Log) any {
	if f.Failed() != nil {
		return f.Failed()
	}
	cmd := new(clusterv1.Command)
	if err := proto.Unmarshal(l.Data, cmd); err != nil {
		return f.fail(fmt.Errorf("command at index %d cannot be decoded: %w", l.Index, err))
	}
	if cmd.GetRestore() != nil {
		return f.applyRestore(l, cmd)
	}
	_, offset := f.Position()
	index := l.Index + offset
	applied := f.applying.Begin()
	res := f.opts.Machine.Apply(index, cmd)
	applied()
	if err, ok := res.(interface {
		error
		Fatal() bool
	}); ok && err.Fatal() {
		return f.fail(err)
	}
	f.advance(index, l.Term)
	done := Applied{Index: index, Result: res}
	if cmd.GetOrigin() == f.opts.Origin {
		f.deliver(cmd.GetProposal(), done)
	}
	return done
}

// applyRestore replaces the state by the snapshot that a command names. It waits for the snapshot
// and never skips it: if neither the snapshot nor a later state of the leader can be fetched, the
// node stops. After the replacement it applies an empty command. This command raises the index of
// the state above every index that a caller may wait for, and its time and feature level at least
// to those of the command.
func (f *FSM) applyRestore(l *raft.Log, cmd *clusterv1.Command) any {
	if level := cmd.GetFeatureLevel(); level > f.opts.Level {
		return f.fail(fmt.Errorf("the command at index %d restores a snapshot and needs feature level %d, this version knows %d: start the version that the cluster runs", l.Index, level, f.opts.Level))
	}
	raw, later, err := f.opts.RestoreData(cmd.GetRestore(), l.Index)
	if errors.Is(err, ErrStopsApplying) {
		return f.stopAt(err)
	}
	if err != nil {
		return f.fail(err)
	}
	if later {
		return f.skipTo(raw)
	}
	at, err := snapshot.Read(bytes.NewReader(raw), f.opts.Machine.Restore)
	if err != nil {
		return f.fail(fmt.Errorf("restore the snapshot that the command at index %d names: %w", l.Index, err))
	}
	_, offset := f.Position()
	index := max(l.Index+offset, at.Index+1)
	f.mu.Lock()
	f.offset = index - l.Index
	f.epoch++
	f.mu.Unlock()
	res := f.opts.Machine.Apply(index, &clusterv1.Command{
		Ignorable: true, TimeUnixNano: cmd.GetTimeUnixNano(), Origin: cmd.GetOrigin(), FeatureLevel: cmd.GetFeatureLevel(), Restore: cmd.GetRestore(),
	})
	f.advance(index, l.Term)
	return Applied{Index: index, Result: res}
}
