// Package chart installs the chart of deploy/helm on a real Kubernetes
// (test/kubelet) by helm itself, with the image that this service has built of
// itself, and upgrades, scales and breaks it under load. The build tag is
// `kubernetes`.
//
//	install_test.go  the image, volumes, the release, clients, programs
//	chart_test.go    what operators do to it
package chart
