#!/usr/bin/env bash
# Runs the long versions of tests whose short ones are part of CI, one after the
# other, about three and a half hours in all. What fails is named at the end. See docs/soak.md.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=
run() {
	local name=$1 begin=$SECONDS
	shift
	echo "== $name: $*"
	"$@" || failed+=" $name"
	echo "== $name took $((SECONDS - begin)) s"
}
run simulation env SIM_RANDOM=1 go test ./test/sim -run Test_Simulation -count 1 -timeout 60m -v -sim.runs 200
run chaos make chaos DURATION=15m
run campaign env CAMPAIGN=5m go test -tags faults ./test/cluster -run Test_Campaign_RandomKills -count 1 -v
run gitpod env SOAK=1 go test ./test/gitpod -count 1 -timeout 30m -v -run 'StopTogether|InstantWorkspaces|DefaultLimit'
run pauses env PAUSES=300 go test -tags faults ./test/cluster -run Test_Pauses -count 1 -timeout 40m -v
run changes env SOAK=1 go test -tags faults ./test/cluster ./test/sim -p 1 -run 'Test_(Rolling_Restart|Pause|Divergences)$' -count 1 -timeout 40m -v
run replicated-log env SOAK=1 go test ./cluster/... -p 1 -run 'Test_(Kill|LogContract|TornEnd)$' -count 1 -timeout 40m -v
run restores env SOAK=1 go test -tags faults ./test/cluster -run Test_Restores -count 1 -timeout 60m -v
run simulated-pauses go test ./test/sim -run Test_Pauses -count 1 -timeout 40m -sim.pauses 10000
run secrets env SOAK=1 go test -tags faults ./test/cluster -run Test_Secrets -count 1 -timeout 60m -v
run interleaved-secrets env SOAK=1 go test ./scheduler/buildkit ./scheduler/kubernetes -run 'Test_Run_InterleavedSecretsAreRedacted|Test_Run_Dockerfile_Redacts' -p 1 -count 1 -timeout 60m -v
run redaction env SOAK=1 go test ./builds/logs -run Test_Redact -count 1 -timeout 20m -v
run disks env SOAK=1 go test -tags faults ./test/cluster -run Test_Disks -count 1 -timeout 40m -v
run power-loss env SOAK=1 go test -tags faults ./test/node ./test/cluster -run 'Test_PowerLoss$' -count 1 -timeout 40m -v
run troubles env SOAK=1 go test -tags faults ./test/logs -run 'Test_Logs_(TroublesInPairs|EndsOnAFullDisk|OwnerKilled)$' -count 1 -timeout 100m -v
run long-output make kubernetes-programs
run long-output env SOAK=1 go test -tags kubernetes ./test/kubelet -run Test_Kubelet_LongOutput -count 1 -timeout 40m -v
run mixed-versions env SOAK=1 go test -tags faults ./test/upgrade -run 'Test_Versions_Mixed$' -count 1 -timeout 40m -v
run dates make test-dates
run fuzz make fuzz FUZZTIME=1m
[ -z "$failed" ] || { echo "failed:$failed"; exit 1; }
