// Package kubelet boots a real Kubernetes cluster for tests: etcd, kube-apiserver, controller
// manager, scheduler, containerd and a kubelet. Its pods are real containers. It needs root, the
// packages that `make deps` installs, the programs of test/kubernetes/bin, and the build tag
// kubernetes.
//
//	main.go       the three processes of a test binary, and their cleanup
//	boot.go       the start of the programs of the cluster, in order
//	settings.go   their settings
//	pki.go        their certificates
//	process.go    a program that can be started, killed and started again
//	kernel.go     control groups and kernel settings, and their removal
//	images.go     images made of files of this machine and of this service
//	pods.go       folders and processes of a pod, and a machine out of service
//	accounts.go   kubeconfig files, also of service accounts
//	rights.go     an account with the rights in deploy/kubernetes
//	simulated.go  a cluster with kwok in place of containerd and kubelet
//
// A test binary executes itself again in its own network, mount and process namespaces. So the
// addresses are the same in every run, no connection leaves the machine, and the kernel ends all
// processes with the test, even after a crash.
//
// The tests of this package use no fakes. Tests of single packages are not here.
package kubelet
