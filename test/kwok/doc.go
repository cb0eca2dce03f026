// Package kwok tests the runtime kubernetes with thousands of builds. The nodes of the service, the
// API server, its scheduler and its controllers are real. kwok simulates the kubelets: no process
// of a pod runs, and its address refuses connections. A script determines how each pod ends. So a
// node must judge each attempt by the status of its pod alone, as after an end that no node
// watched. Tests with real pods are in test/kubelet. The build tag is kubernetes.
//
//	stages.yaml        the simulation of nodes and pods by kwok
//	script_test.go     the endings, and the expected result of each
//	director_test.go   assigns scripts to pods, and acts for users, the scheduler and controllers
//	ledger_test.go     counts all pods in etcd, and all requests in the audit log
//	builds_test.go     the builds and the kills
package kwok
