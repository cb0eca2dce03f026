// Package registrytest provides registries for tests. It starts Debian's docker-registry (the
// distribution project's) on a loopback port, pushes small images to it, and puts a proxy in front
// of it that fails on demand.
//
//	reg := registrytest.Start(t, registrytest.Options{})
//	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 2, 1<<20))
//	proxy := registrytest.NewProxy(t, reg)
//	proxy.Fail(registrytest.Blobs, 1, http.StatusBadGateway) // once
//	... use proxy.Addr as the registry's host ...
//	if n := proxy.Count(registrytest.Manifests); n != 1 { ... }
//
// To serve names such as docker.io, dial them to a registry and declare them insecure:
//
//	registry.Options{Dial: registrytest.DialTo(map[string]string{"docker.io": reg.Addr}), Insecure: []string{"docker.io"}}
//
// Everything is cleaned up at the end of the test. If docker-registry is not installed (apt-get
// install docker-registry), a test fails and is not skipped.
package registrytest
