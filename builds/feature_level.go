package builds

// FeatureLevel is the greatest feature level of commands and snapshots that this binary can apply.
// The leader raises the level of the cluster once all members know it. Below a level the state
// changes as older versions change it, so that nodes of both versions hold the same state.
const FeatureLevel = 5

// Feature levels that introduced a command, a field or a rule.
const (
	// nodeLostLevel introduces NodeLost and the commands that were added with it.
	nodeLostLevel = 2
	// cacheLevel introduces the refreshes of cached references.
	cacheLevel = 3
	// traceLevel introduces the trace of a build. Older versions drop the field.
	traceLevel = 3
	// generatedIDLevel introduces the short retention of request ids that the service generated.
	// Older versions do not know which ids these are.
	generatedIDLevel = 4
	// workloadLevel introduces two fields of attempts: that the workload was created, and that the
	// owner cannot open the log. Older versions do not know them.
	workloadLevel = 4
	// allAttemptsLevel introduces the end of all attempts of a lost node, adoptable ones included.
	// Older versions do not know the field.
	allAttemptsLevel = 4
	// commandTimeLevel introduces the check of deadlines and of the age of logs against the time of
	// the command. Older versions trust the clock of the leader.
	commandTimeLevel = 4
	// newestLevel introduces the search for the newest build of a ref among all builds. Older
	// versions forget the ref together with its newest build, until they read a snapshot.
	newestLevel = 4
	// hasSecretsLevel introduces the refusal of builds whose secrets were lost before they were
	// sealed. Older versions do not know the field.
	hasSecretsLevel = 5
	// JoinLevel introduces commands that join a build or create none: they announce secrets and have
	// none. In older versions they create a build.
	JoinLevel = hasSecretsLevel
	// requestLimitLevel introduces the limit of the number of request ids. Older versions keep any
	// number.
	requestLimitLevel = 5
	// creationOrderLevel introduces the order of builds by the index of the command that created
	// them. Older versions order builds by id, which follows the clocks of the leaders.
	creationOrderLevel = 5
	// freshLevel introduces successors for forced requests of the native API. In older versions a
	// forced request joins the active build, however long that runs.
	freshLevel = 5
	// successorDeadlineLevel introduces deadlines of successors that begin when the successor becomes
	// the active build. In older versions they begin with the request.
	successorDeadlineLevel = 5
	// lookAgainLevel introduces the refusal of requests that looked for their image long before its
	// build ended. Older versions let such a request join the build, however old it is.
	lookAgainLevel = 5
	// LogRecordsLevel introduces incarnations of the copies of logs, and records of the position in
	// the output of a workload. Older versions know neither.
	LogRecordsLevel = 5
	// RevokeLevel introduces the end of an attempt by the leader, and the time at which a stop was
	// requested. Older versions leave the end of an attempt to its owner.
	RevokeLevel = 5
	// publishedLevel introduces the refusal to cancel a queued build whose digest is committed. Older
	// versions cancel it, although its image may be public.
	publishedLevel = 5
	// publishedOrderLevel introduces the removal of older successes of a ref before newer ones. In older
	// versions an older success takes the place of a removed one.
	publishedOrderLevel = 5
	// uncountedPauseLevel introduces a pause before an attempt that follows two or more uncounted
	// ones. Older versions start it at once.
	uncountedPauseLevel = 5
	// overdueLevel introduces the command that stops several builds after their deadlines. Older
	// versions do not know it.
	overdueLevel = 5
	// requesterQueueLevel introduces the limit of queued builds of one requester. Older versions do
	// not know the setting.
	requesterQueueLevel = 5
	// attemptBatchLevel introduces a limit of the attempts that one command ends because their node is
	// gone. Older versions end all with one command.
	attemptBatchLevel = 5
	// reapLevel introduces a limit of the builds that one command removes from the history. Older
	// versions remove up to as many for each build that the command ends.
	reapLevel = 5
	// ConfirmLevel introduces the peer call Confirm, by which a leader makes sure that it still leads
	// before a linearizable read. Older versions do not serve it, and use Raft's VerifyLeader.
	ConfirmLevel = 5
)

// RestoreLevel introduces the restore of a snapshot by a command of the log. Older versions do not
// know the command. The feature level of the command is that of the cluster: a restored state of a
// lower level gets it, because the level could not rise while a member is down.
const RestoreLevel = 5

// FloorLevel introduces the last index of a member as a part of its identity. Older versions do not
// report it.
const FloorLevel = 5
