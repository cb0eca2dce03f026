// Package secrets seals the confidential values of build requests, so that neither the replicated
// log nor a snapshot contains them in clear text.
//
// A Keyring reads the sealing keys from a file that all nodes share. The leader seals the secrets
// of a build before it replicates them, and the owner of an attempt opens them. The package does
// not decide which builds have secrets or how long they are kept (package builds), and does not
// redact logs (package builds/logs).
//
// The files: keyfile.go (the key file), keyring.go (the keys in use), seal.go (sealing and
// opening), values.go (the values to redact).
package secrets
