// Package kwok tests the runtime kubernetes with thousands of builds: real
// nodes of the service, a real API server with its scheduler and controllers,
// and pods whose ends are scripted. kwok plays their kubelets: nothing of a pod
// runs, and nobody is at its address, so that each attempt has to be judged by
// its pod's status alone, as one that ended while no node watched. What real
// pods do is tested by test/kubelet. The build tag is `kubernetes`.
//
//	stages.yaml        how kwok plays nodes and pods
//	script_test.go     the endings, and what is to come of each
//	director_test.go   gives each pod its script, and plays what is no kubelet's part
//	ledger_test.go     what etcd and the audit log tell of all pods and requests
//	builds_test.go     the builds, and the kills
package kwok
