// Package chart installs the chart of deploy/helm on a real Kubernetes
// (test/kubelet) by helm itself, with the image that this service has built of
// itself, and upgrades, scales, removes and breaks it under load, by the
// commands that the texts tell operators to type. The build tag is `kubernetes`.
//
//	texts_test.go    the commands of the texts
//	install_test.go  the image, volumes, values, programs
//	clients_test.go  what uses the release, and judges it
//	chart_test.go    what operators do to it
//	plain_test.go    the plain manifests of deploy/kubernetes after it
//	dns_test.go      a cluster's DNS for these
package chart
