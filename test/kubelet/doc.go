// Package kubelet boots a real Kubernetes for tests: etcd, kube-apiserver,
// controller manager, scheduler, containerd and a kubelet, whose pods are real
// containers. It needs root, the packages that `make deps` installs and the
// programs of test/kubernetes/bin; the build tag is `kubernetes`.
//
//	main.go       the three processes of a test binary, and what they leave: nothing
//	boot.go       the programs of the cluster, in order
//	settings.go   their settings
//	pki.go        their certificates
//	process.go    a program that runs, is killed, and comes back
//	images.go     images made of this machine's files, and of this service
//	accounts.go   kubeconfig files, also of service accounts
//	rights.go     an account with the rights that deploy/kubernetes ships
//	simulated.go  the same with kwok in place of containerd and kubelet
//
// A test binary executes itself again in network, mount and process namespaces
// of its own: the addresses are the same in every run, nothing reaches the
// network, and the kernel ends everything when the test ends, however it ends.
//
// What never belongs here: tests of one package, fakes.
package kubelet
