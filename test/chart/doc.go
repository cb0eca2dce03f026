// Package chart installs the chart of deploy/helm with helm on a real Kubernetes cluster
// (test/kubelet). The service itself builds its image for the release. Under load, the test
// upgrades, scales and removes the release and injects faults, with the commands of the
// documentation. The build tag is kubernetes.
//
//	texts_test.go    the commands of the documentation
//	install_test.go  the image, volumes, values, programs
//	clients_test.go  clients that use the release and check the results
//	chart_test.go    the actions of operators
//	plain_test.go    the plain manifests of deploy/kubernetes, after the chart
//	dns_test.go      the DNS of a cluster for these manifests
package chart
