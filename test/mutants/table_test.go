package mutants

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mutant is one defect: a replacement of text in a source file.
type mutant struct {
	name     string
	file     string // path from the root of the module
	old, new string
	pkg      string // package of the test
	by       string // pattern for the names of the tests that must fail
	imports  string // package that the defect imports in addition, or ""
}

var mutants = []mutant{
	{
		"logs are not fsynced", "builds/logs/flush.go",
		"err = w.file.Sync()\n\t}\n\tif err == nil {\n\t\treturn p, nil", "}\n\tif err == nil {\n\t\treturn p, nil",
		"./builds/logs", "Test_Simulation", "",
	},
	{
		"a pod drops output that only the owner has", "scheduler/kubernetes/follow.go",
		"held := s.sink.Held()", "held := s.sink.Offset()",
		"./scheduler/kubernetes", "Test_Run_CopyBehindTheSpool", "",
	},
	{
		"a build waits for copies of its log until its deadline", "scheduler/kubernetes/follow.go",
		"> s.r.opts.CopiesTimeout {", "< 0 {",
		"./scheduler/kubernetes", "Test_Run_CopyHangs_SpoolIsFull", "",
	},
	{
		"a replay keeps the position in the source", "scheduler/wsmanager/output.go",
		"m.Reposition(0)", "m.Reposition(r.out.sink.Offset())",
		"./scheduler/wsmanager", "Test_Replay_TwoAdoptions", "",
	},
	{
		"the text of a failure is truncated before it is redacted", "scheduler/wsmanager/verdict.go",
		"String(f.Message)", "String(f.Message[:min(len(f.Message), maxText)])",
		"./scheduler/wsmanager", "Test_Bounded_RedactsFirst", "",
	},
	{
		"the output of steps is redacted only after it is merged", "scheduler/buildkit/progress.go",
		"out, _ = r.Write(data)", "_, _ = r.Write(data)\n\tout = data",
		"./scheduler/buildkit", "Test_Redact_TwoStepsCutASecret", "",
	},
	{
		"both streams of a step are redacted as one", "scheduler/buildkit/progress.go",
		"stream, data := l.Stream, l.Data", "stream, data := 0*l.Stream, l.Data",
		"./scheduler/buildkit", "Test_Redact_StdoutAndStderrCutASecret", "",
	},
	{
		"the end of a step shows the beginning of a secret", "scheduler/buildkit/progress.go",
		"st.streams[stream].Cut())", "func() []byte { out, _ := st.streams[stream].Flush(); return out }())",
		"./scheduler/buildkit", "Test_Redact_OutputAfterTheEndOfAStep", "",
	},
	{
		"a secret is shown around a gap in the output of a step", "scheduler/buildkit/progress.go",
		"if gap != nil {", "if gap != nil && false {",
		"./scheduler/buildkit", "Test_Redact_Clipped", "",
	},
	{
		"the printer of plain progress cuts a secret", "builds/logs/redact.go",
		"r.insertFound(r.others.part)\n\t}\n\tif r.others.phase == noSwitch", "}\n\tif r.others.phase == noSwitch",
		"./builds/logs", "Test_StepSwitch", "",
	},
	{
		"a new state has the default settings of its version", "builds/state.go",
		"initialSettings()", "DefaultSettings()",
		"./builds", "Test_NewState_SettingsOfFormerVersions", "",
	},
	{
		"a decision adopts more attempts than a commit holds", "scheduler/decide.go",
		"if len(d.reassign) >= maxAssigned {", "if len(d.reassign) < 0 {",
		"./scheduler", "Test_Decide_AdoptsNoMoreThanACommitHolds", "",
	},
	{
		"settings are committed below their feature level", "scheduler/leader.go",
		"builds.SettingsAt(l.opts.Settings, view.Level())", "l.opts.Settings",
		"./scheduler", "Test_Leader_SettingsOfTheLevel", "",
	},
	{
		"a secret in a cut secret ends the removal", "builds/logs/occurrences.go",
		"inside < len(o.found) && o.found[inside].end <= s.end {", "inside < len(o.found) && o.found[inside].start == s.start && o.found[inside].end == s.end {",
		"./builds/logs", "Test_StepSwitch_AnotherSecretInside", "",
	},
	{
		"entries of the replicated log are read without a look at their checksum", "cluster/raftlog/read.go",
		"if sum != checksum(out) {", "if sum == 0 && sum != checksum(out) {",
		"./cluster", "Test_Damage_InAnOldSegment", "",
	},
	{
		"a removal of entries that hangs is no change in progress", "cluster/raftlog/write.go",
		"\tdefer s.change()()\n\treturn s.remove(first, last)", "\ts.writes <- struct{}{}\n\tdefer func() { <-s.writes }()\n\treturn s.remove(first, last)",
		"./cluster/raftlog", "Test_Hang_Oldest", "",
	},
	{
		"a returning node counts the leader as a voter that hears no leader", "cluster/silentleader.go",
		"\treturn p.res.GetLeader() != string(p.id)\n", "\treturn true\n",
		"./cluster", "Test_SilentLeader_HearsNone", "",
	},
	{
		"a delayed snapshot removes newer entries", "cluster/raftguard/install.go",
		"if !has && err == nil {", "if has || err == nil {",
		"./cluster/raftguard", "Test_InstallSnapshot_KeepsNewerEntries", "",
	},
	{
		"a restore skips a missing snapshot", "cluster/fsm/apply.go",
		"if errors.Is(err, ErrStopsApplying) {\n\t\treturn f.stopAt(err)\n\t}\n\tif err != nil {\n\t\treturn f.fail(err)\n\t}",
		"if errors.Is(err, ErrStopsApplying) {\n\t\treturn f.stopAt(err)\n\t}\n\tif err != nil {\n\t\tf.advance(l.Index, l.Term)\n\t\treturn Applied{Index: l.Index}\n\t}",
		"./cluster", "Test_Restore_MissingSnapshotStopsTheNode", "",
	},
	{
		"recover keeps the cluster id", "cluster/recover.go",
		"d.ClusterID, d.Bootstrap = newID(), nil", "d.Bootstrap = nil",
		"./cluster", "Test_Recover_TheOthersComeBack", "",
	},
	{
		"a restore lowers the feature level", "builds/apply.go",
		"tx.raiseLevel(cmd.GetFeatureLevel()) // see", "_ = cmd // see",
		"./builds", "Test_Restore_KeepsTheLevel", "",
	},
	{
		"a restore ignores its feature level", "cluster/fsm/apply.go",
		"level > f.opts.Level {", "level > f.opts.Level && false {",
		"./cluster/fsm", "Test_Restore_OfANewerVersion", "",
	},
	{
		"a node without the snapshot of a restore uses no other state", "cluster/restorefetch.go",
		"raw, serr := n.fetchState(ctx, n.fsm.Index())\n\tif serr != nil {", "raw, serr := n.fetchState(ctx, n.fsm.Index())\n\tif true {",
		"./cluster", "Test_Restore_TheOthersHaveRemovedTheSnapshot", "",
	},
	{
		"a node that waits for the snapshot of a restore leads on", "cluster/restorefetch.go",
		"if r.State() == raft.Leader {", "if r.State() == raft.Leader && false {",
		"./cluster", "Test_Restore_AWaitingNodeGivesUpLeadership", "",
	},
	{
		"recover leaves the cluster before the log is applied", "cluster/recover.go",
		"\tformer := dir.Identity().ClusterID\n", "\tformer := dir.Identity().ClusterID\n\tif err := snaps.validates(); err != nil {\n\t\treturn err\n\t}\n",
		"./cluster", "Test_Recover_ThatFailsChangesNothing", "",
	},
	{
		"an identity is compared with a newer floor", "cluster/local.go",
		"floors[raft.ServerID(from.GetServerId())])", "max(floors[\"\"], n.floors.get(raft.ServerID(from.GetServerId()))))",
		"./cluster", "Test_Floors_OlderThanTheIdentity", "",
	},
	{
		"a node takes the floor after the hello of the other end", "cluster/transport/streams.go",
		"if err := admit(hello.", "if err := l.local.Admission()(hello.",
		"./cluster", "Test_Handshake_TakesFloorsFirst", "",
	},
	{
		"the end of the log is read before its term", "cluster/logend.go",
		"\tterm = n.lastTerm(r)\n\treturn r.LastIndex(), term\n", "\tindex = r.LastIndex()\n\treturn index, n.lastTerm(r)\n",
		"./cluster", "Test_Floors_TheLogChangesDuringAPing", "",
	},
	{
		"a read index leaves out what was removed from the log", "cluster/reads.go",
		"return applied(), nil", "return before, nil",
		"./cluster", "Test_LastCommand_TheLogIsCutMeanwhile", "",
	},
	{
		"the index of a saved snapshot is ahead of the state", "cluster/backup.go",
		"s, err := n.fsm.Capture(ctx)\n", "state, err := n.cfg.StateMachine.Snapshot()\n\ts := struct {\n\t\tState io.WriterTo\n\t\tAt snapshot.Header\n\t}{state, snapshot.Header{Index: n.fsm.Index()}}\n",
		"./cluster", "Test_SaveSnapshot_IndexOfTheState", "",
	},
	{
		"a snapshot whose name is not durable counts as stored", "cluster/restorefiles/files.go",
		"return errors.Join(err, os.Remove(path)) // a file", "return err // a file",
		"./cluster/restorefiles", "Test_RestoreFiles_OnlyWhatIsDurable", "",
	},
	{
		"an older copy of a data directory is accepted", "cluster/checkfloor.go",
		"from.GetLastIndex() < floor {", "from.GetLastIndex() < floor && floor == 0 {",
		"./cluster", "Test_Floors_AnOlderCopyIsRefused", "",
	},
	{
		"a new address is recorded for a removed voter", "cluster/membership.go",
		"if !slices.Contains(servers, s) {", "if len(servers) == 0 && !slices.Contains(servers, s) {",
		"./cluster", "Test_Join_DuringARemoval", "",
	},
	{
		"a read joins a round that has begun", "cluster/readbatch.go",
		"\t\tr.next = nil\n\t\tr.running = b != nil\n\t\tr.mu.Unlock()\n\t\tif b == nil {\n\t\t\treturn\n\t\t}\n\t\tb.index, b.err = b.verify()\n",
		"\t\tr.running = b != nil\n\t\tr.mu.Unlock()\n\t\tif b == nil {\n\t\t\treturn\n\t\t}\n\t\tb.index, b.err = b.verify()\n\t\tr.mu.Lock()\n\t\tr.next = nil\n\t\tr.mu.Unlock()\n",
		"./cluster", "Test_ReadIndex_.*", "",
	},
	{
		"a voter confirms every leader", "cluster/confirm.go",
		"return known == leader && r.CurrentTerm() == term", "return r.CurrentTerm() >= term || known == leader && r.CurrentTerm() == term",
		"./cluster", "Test_ReadIndex_.*", "",
	},
	{
		"secrets are replicated as they are", "builds/prepare.go",
		"c.Secrets = nil\n", "",
		"./builds", "Test_Prepare_SealsWhatIsReplicated", "",
	},
	{
		"a prepared command goes to the next leader", "cluster/propose.go",
		"\treturn n.commit(ctx, term, prepared)\n", "\tcmd.Payload = prepared.Payload\n\treturn n.commit(ctx, term, prepared)\n",
		"./cluster", "Test_Propose_PreparesTheCommandOfTheCaller", "",
	},
	{
		"the term of a decision is checked before its command is prepared only", "cluster/propose.go",
		"term == anyTerm || r.CurrentTerm() == term {", "term == anyTerm || r.CurrentTerm() >= term {",
		"./cluster", "Test_Term_EndsWhilePreparing", "",
	},
	{
		"a call waits for a leader that was replaced before it", "cluster/propose.go",
		"\tgo func() { // ends when done is called\n", "\t_, leader = n.raft.Load().LeaderWithID()\n\tgo func() { // ends when done is called\n",
		"./cluster", "Test_Propose_EndsWithTheLeaderOfItsConnection", "",
	},
	{
		"a member that responds again is removed", "cluster/autopilot.go",
		"if silent <= n.cfg.PruneAfter {", "if silent < 0 {",
		"./cluster", "Test_Prune_OnlySilentMembers", "",
	},
	{
		"a member is replaced although it responds again", "cluster/admit.go",
		"return n.peers.get(id).pingAt.After(t)", "return n.peers.get(id).pingAt.After(t.AddDate(1, 0, 0))",
		"./cluster", "Test_Join_FormerServerRespondsAgain", "",
	},
	{
		"a decision of a former term changes the members", "cluster/membership.go",
		"if r.CurrentTerm() != term {", "if r.CurrentTerm() < term {",
		"./cluster", "Test_Autopilot_PromotesMembersOnly", "",
	},
	{
		"a failed state machine wakes nobody", "cluster/fsm/fsm.go",
		"\t\tclose(f.stopped)\n", "",
		"./cluster/fsm", "Test_FSM_FailureWakesWaiters", "",
	},
	{
		"a refusal is reported as an unknown outcome", "cluster/outcome.go",
		"return status.Error(codes.Aborted, ", "return status.Error(codes.Unknown, ",
		"./cluster", "Test_Propose_RefusalIsDefinite|Test_Outcome_ReachesTheFollower", "",
	},
	{
		"a build without its secrets is created", "builds/apply_create.go",
		"&& c.HasSecrets && c.Sealed == nil {", "&& c.HasSecrets && c.Sealed == nil && false {",
		"./builds", "Test_Create_RefusesABuildWithoutItsSecrets", "",
	},
	{
		"a request without its one-time credential joins unrecorded", "api/submit.go",
		"Level() < builds.JoinLevel {", "Level() < builds.JoinLevel || true {",
		"./api", "Test_OneTimeCredential_JoinIsRecorded", "",
	},
	{
		"a one-time credential is fetched for a build that is refused", "api/one_time.go",
		"joined == nil && err == nil {", "joined == nil && err == nil && false {",
		"./api", "Test_OneTimeCredential_QueueIsFull", "",
	},
	{
		"a leader with a full disk is reported as no leader", "cluster/propose.go",
		"return Applied{}, refuseForDisk(n.cfg.Name, err)", "return Applied{}, fmt.Errorf(\"%w: %w\", ErrNoLeader, err)",
		"./cluster", "Test_FullDisk_AllTogether", "",
	},
	{
		"a command waits for a server in silence", "client/notice.go",
		"n.waiting(n.last)", "",
		"./client", "Test_Call_Waiting", "",
	},
	{
		"the command that raises the level needs level 1", "builds/commands.go",
		"return max(1, c.GetLevel())", "return min(1, c.GetLevel())",
		"./builds", "Test_Apply_UnknownFeatureLevel", "",
	},
	{
		"a node that reaches no leader holds calls", "node/service.go",
		"Raft: clientRaft{n.raft},", "Raft: n.raft,",
		"./test/sim", "Test_Scenarios", "",
	},
	{
		"a node does not believe members that hear a leader", "cluster/separation.go",
		"case s.elsewhere && s.heard >=", "case false && s.heard >=",
		"./cluster", "Test_Reached_EndsWithoutALeader|Test_Separation", "",
	},
	{
		"a slow leader counts as lost", "cluster/watchreach.go",
		"if found.leader {", "if false && found.leader {",
		"./cluster", "Test_Reached_WaitsForASlowLeader", "",
	},
	{
		"followers of a silent leader wait for Raft's timers", "cluster/silentleader.go",
		"time.Now().Before(next)", "time.Now().Before(next.AddDate(1, 0, 0))",
		"./cluster", "Test_SilentLeader_IsReplacedInTime", "",
	},
	{
		"an operator's call waits although no leader responds", "node/operator.go",
		"if c.waits || c.node", "if c.waits || true || c.node",
		"./node", "Test_Operator_KnownToBeWithoutLeader", "",
	},
	{
		"a forced request joins a build that runs", "builds/apply_create.go",
		"if !fresh || s.level < freshLevel {", "if true {",
		"./builds", "Test_Force_GetsABuildThatBeginsLater", "",
	},
	{
		"a forced request joins a successor that copies another image", "builds/apply_create.go",
		"if s.level >= freshLevel && !s.canJoin(next, source, fresh) {", "if false {",
		"./builds", "Test_Force_AndAnotherSuccessor", "",
	},
	{
		"the deadline of a build runs while it waits for another", "builds/deadlines.go",
		"return !r.Successor || s.level < successorDeadlineLevel", "return true",
		"./builds", "Test_Successor_.*", "",
	},
	{
		"request ids have no limit", "builds/apply_create.go",
		"!tx.roomForRequest() {", "!tx.roomForRequest() && false {",
		"./builds", "Test_Requests_.*", "",
	},
	{
		"request ids expire by the local clock", "builds/apply_requests.go",
		"tx.settings.RequestIdAgeNanos > tx.time {", "tx.settings.RequestIdAgeNanos > time.Now().UnixNano() {",
		"./builds", "Test_Create_RequestID.*|Test_State_Invariants|Test_History_Bounds", "",
	},
	{
		"look-ups are merged across credentials", "registry/sessions.go",
		"t.from, t.cred.identity(c.salt)}", "t.from}",
		"./registry", "TestCache_IsNotSharedAmongCredentials", "",
	},
	{
		"snapshots leave out request ids", "builds/snapshot.go",
		"count(1, key, r)\n\t\treturn put(", "count(1, key, r)\n\t\treturn true || put(",
		"./builds", "Test_State_Invariants", "",
	},
	{
		"phases go back", "builds/apply_attempt.go",
		"if !Live(phase) || phase < a.Phase {", "if !Live(phase) {",
		"./builds", "Test_Phases_OnlyGrow", "",
	},
	{
		"a second digest is taken", "builds/apply_attempt.go",
		"&& !c.FormerDigestMissing {", "&& !c.FormerDigestMissing && false {",
		"./builds", "Test_Publish_SecondDigestNeedsTheFirstMissing", "",
	},
	{
		"attempts that end with their node count", "builds/apply_end.go",
		"if e.uncounted || e.phase == Cancelled {", "if e.phase == Cancelled {",
		"./builds", "Test_Retry_NodeEndsDoNotCount", "",
	},
	{
		"a cancel stops what is being published", "builds/apply_stop.go",
		"if (b.Phase == Pushing || tagged) && !forced {", "if tagged && b.Phase != Pushing && !forced {",
		"./builds", "Test_Stop_TooLateOncePushing", "",
	},
	{
		"a cancel stops what a former owner has tagged", "builds/apply_stop.go",
		"if (b.Phase == Pushing || tagged) && !forced {", "if (b.Phase == Pushing || tagged && false) && !forced {",
		"./builds", "Test_Stop_TooLateOnceTagged", "",
	},
	{
		"uncounted attempts follow each other at once", "builds/retry.go",
		"r.UncountedAttempts > 1:", "false:",
		"./builds", "Test_Retry_UncountedAttemptsPause", "",
	},
	{
		"an attempt is taken away without a new epoch", "builds/apply_revoke.go",
		"a.Epoch = MaxEpoch(r.Build) + 1", "",
		"./builds", "Test_Revoke", "",
	},
	{
		"the owner that loses an attempt seals its log", "builds/apply_revoke.go",
		"tx.sealingElsewhere(a)", "tx.sealing(a)",
		"./builds", "Test_Revoke", "",
	},
	{
		"the leader ends attempts of builds that nobody stops", "builds/apply_revoke.go",
		"if r.StopReason == buildsv1.StopReason_STOP_REASON_UNSPECIFIED {", "if false {",
		"./builds", "Test_Revoke", "",
	},
	{
		"the last success is the build that was created last", "builds/keys.go",
		"return orderByEnd(a.build, b.build)", "return orderByCreation(a.build, b.build)",
		"./builds", "Test_Published", "",
	},
	{
		"a late tag is repaired to the newest build, whether or not it has failed", "builds/published.go",
		"return s.Published(ref)", "return s.Newest(ref).GetBuild().GetDigest()",
		"./scheduler/owner", "Test_Publish_LateTagAfterAFailedBuild", "",
	},
	{
		"a failed build keeps the tags of its former owner", "scheduler/owner/run.go",
		"at.inheritTags()", "",
		"./scheduler/owner", "Test_Publish_AFailureLeavesTheLastSuccess", "",
	},
	{
		"a drained node gets no copy of a live log", "scheduler/owner/copyset.go",
		"if lacksHolders(view) {", "if false {",
		"./scheduler/owner", "Test_KeepCopy_DrainedNodesAreTheLastResort", "",
	},
	{
		"build pods get their places in any order", "scheduler/kubernetes/watch.go",
		"if n+turn >= limit {", "if n >= limit {",
		"./scheduler/kubernetes", "Test_MaxPods_Order", "",
	},
	{
		"only the owner ends an attempt", "scheduler/revoke.go",
		"now.Before(due)", "true",
		"./scheduler", "Test_Decide_Revokes|Test_Leader_EndsWhatItsOwnerDoesNot", "",
	},
	{
		"a drained node holds no copy of a log", "scheduler/decide.go",
		"add(h.drained, least)", "_ = h.drained",
		"./scheduler", "Test_Decide_DrainedNodesAreTheLastResort", "",
	},
	{
		"a late goroutine of an ended term makes the node lead", "cluster/leadership.go",
		"if n.current.Load() == term {", "if true {",
		"./cluster", "Test_Leads_OfAnEndedTerm", "",
	},
	{
		"a leader whose disk was stuck stays silent", "cluster/silence.go",
		"case !stuck && !s.since.IsZero()", "case false && !s.since.IsZero()",
		"./cluster", "Test_Silence", "",
	},
	{
		"time stands still under a leader behind the time of the state", "cluster/clock/clock.go",
		"c.last = c.view.next(c.last, elapsed, c.now().UnixNano())", "c.last = max(c.last, c.now().UnixNano()+0*int64(elapsed))",
		"./cluster/clock", "Test_Clock_GoesOnBehindTheState", "",
	},
	{
		"the newest build of a ref is that of the greatest id", "builds/state.go",
		"if s.level < creationOrderLevel {\n\t\tindex, last", "if true {\n\t\tindex, last",
		"./builds", "Test_Newest_FollowsTheLog", "",
	},
	{
		"the time of the state goes back", "builds/apply.go",
		"s.time = max(s.time, cmd.GetTimeUnixNano())", "s.time = cmd.GetTimeUnixNano()",
		"./builds", "Test_Time_NeverGoesBack", "",
	},
	{
		"a reader of damaged copies waits for a leader without end", "api/stream_logs.go",
		"context.WithTimeout(ctx, logCatchUpTimeout)", "context.WithTimeout(ctx, 24*time.Hour)",
		"./api", "Test_BuildLogs_DamagedWithoutALeader", "",
	},
	{
		"a log that no node has is read as empty", "api/stream_logs.go",
		"if l.GetState() == builds.LogSealed && l.GetLength() > 0 {", "if false {",
		"./api", "Test_BuildLogs_AnAbsentLogIsNoEmptyOne", "",
	},
	{
		"a former owner leaves its late tag", "scheduler/owner/publish.go",
		"if len(at.tagging) == 0 {", "if true {",
		"./scheduler/owner", "Test_Publish_ALateTagIsRepaired", "",
	},
	{
		"dead nodes are given builds", "scheduler/decide.go",
		"if !n.Drained && r.alive(n) {", "if !n.Drained {",
		"./scheduler", "Test_Decide_LeavesOutDeadNodesAndMissingRuntimes", "",
	},
	{
		"a packed record repeats the dictionary of another one", "builds/pack.go",
		"p.base += len(p.text)", "",
		"./builds", "Fuzz_Pack", "",
	},
	{
		"equal ranks leave a restored index out of order", "builds/tree_load.go",
		"case t.less(a.item, b.item):", "case false:",
		"./builds", "Test_Tree$", "",
	},
	{
		"a snapshot has a build twice", "builds/snapshot_tables.go",
		"if twice != nil {", "if false {",
		"./builds", "Test_Snapshot_ABuildTwice", "",
	},
	{
		"an index keeps the former version of a build", "builds/tables.go",
		"s.byRequester.Set(e)", "if former == nil {\n\t\ts.byRequester.Set(e)\n\t}",
		"./builds", "Test_State_Invariants", "",
	},
	{
		"a restored state is hashed without its ended builds", "builds/snapshot_records.go",
		"d.sum += h.ofEncoded(r.Build.Id, raw)", "_ = raw",
		"./builds", "Test_Hash_SameOnAllNodes", "",
	},
	{
		"a list reads the whole history", "api/native_reads.go",
		"read == maxListed || match", "match",
		"./api", "Test_List_ReadsABoundedNumber", "",
	},
	{
		"a damaged snapshot is restored", "cluster/snapshot/snapshot.go",
		"return 0, errDamaged", "return 0, io.EOF",
		"./cluster/snapshot", "Test_Read", "",
	},
	{
		"the hash of a state keeps replaced records", "builds/table.go",
		"t.sum -= h.of(key, old.v)", "_ = old.v",
		"./builds", "Test_Hash_SameOnAllNodes", "",
	},
	{
		"hashes of different versions are compared", "cluster/hashes/judge.go",
		"k := key{p.GetVersion(), p.GetIndex()}", "k := key{index: p.GetIndex()}",
		"./cluster/hashes", "Test_Judge", "",
	},
	{
		"two voters of five decide which state is right", "cluster/hashes/judge.go",
		"> voters/2 {", "> voters/3 {",
		"./cluster/hashes", "Test_Judge", "",
	},
	{
		"entries that a new state contains are applied again", "cluster/fsm/apply.go",
		"if f.held || l.Index <= f.contained {", "if f.held {",
		"./cluster/fsm", "Test_Exchange", "",
	},
	{
		"a report about a replaced state counts", "cluster/ownstate.go",
		"if w == nil || w.replacements != n.fsm.Replacements() {", "if w == nil {",
		"./cluster", "Test_Divergence_OfAFollower", "",
	},
	{
		"a leader with a wrong state leads on", "cluster/watchhashes.go",
		"if err := n.Diverged(); err != nil {\n\t\t\tn.handOver", "if err := n.Diverged(); err != nil && len(v.Wrong) == 0 {\n\t\t\tn.handOver",
		"./cluster", "Test_Divergence_OfTheLeader", "",
	},
	{
		"builds that no node can run use up the window of all", "scheduler/turns.go",
		"k.closed = k.passed >= maxPassed", "k.closed = k.passed >= maxPassed\n\tfor i := range t.kinds {\n\t\tt.kinds[i].closed = t.kinds[i].closed || k.closed\n\t}",
		"./scheduler", "Test_Decide_BuildsWithoutARuntimeStarveNobody", "",
	},
	{
		"the turn of a requester ignores that its builds end", "builds/reindex.go",
		"|| is.ready != \"\" || was.live != is.live {", "|| is.ready != \"\" {",
		"./scheduler", "Test_Turns_AsFairAsAScan", "",
	},
	{
		"builds stay in the index of pauses", "builds/apply.go",
		"\ts.elapse(before, s.time)\n", "\t_ = before\n",
		"./builds", "Test_State_Invariants", "",
	},
	{
		"the bytes of removed logs still count", "builds/reindex.go",
		"s.logBytes += is.logBytes - was.logBytes", "s.logBytes += max(is.logBytes-was.logBytes, 0)",
		"./scheduler", "Test_Retention", "",
	},
	{
		"overdue builds are stopped before others start", "scheduler/leader.go",
		"if len(d.assign) > 0 {", "if len(d.assign) > 0 && len(d.overdue) == 0 {",
		"./scheduler", "Test_Leader_AssignsBeforeItStops", "",
	},
	{
		"a new leader leaves attempts to a lost node", "scheduler/nodes.go",
		"if view.Bound(n.Name) {", "if view.Bound(n.Name) && n.Name == \"\" {",
		"./scheduler", "Test_LostNodes_GoesOn", "",
	},
	{
		"one requester fills the queue of all", "builds/busy.go",
		"limit > 0 && s.Waiting(requester) >= int(limit) {", "limit > 1<<30 && s.Waiting(requester) >= int(limit) {",
		"./builds", "Test_Create_LimitsTheQueueOfARequester", "",
	},
	{
		"a command that ends many builds removes any number of ended ones", "builds/apply_history.go",
		"n = min(n, reapsPerApply-len(tx.event.Removed))", "n = min(n, reapsPerApply)",
		"./builds", "Test_Reap_OneLimitForACommand", "",
	},
	{
		"replaced copies of a log still count", "builds/copy_sets.go",
		"\t\ts.countSet(a, -1)\n", "",
		"./builds", "Test_State_Invariants", "",
	},
	{
		"attempts end in batches below the feature level of batches", "builds/apply_node.go",
		"if tx.level < attemptBatchLevel {", "if tx.level < 2 {",
		"./builds", "Test_FormerLevels_SameState", "",
	},
}

// root is the root of the module.
var root = filepath.Join("..", "..")

// source returns the source file of a defect. The text that the defect replaces must occur once.
func (m mutant) source(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(raw), m.old); n != 1 {
		t.Fatalf("%s: %q occurs %d times in %s, want once", m.name, m.old, n, m.file)
	}
	return string(raw)
}

// Test_Sources: each defect fits the source.
func Test_Sources(t *testing.T) {
	for _, m := range mutants {
		m.source(t)
	}
}
