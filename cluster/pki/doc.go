// Package pki issues and loads the certificates of a cluster's nodes and operators.
//
// A certificate names the cluster, a role and a name as a SPIFFE id (spiffe://CLUSTER/ROLE/NAME,
// CertIdentity). IssueCert signs one with the CA of the cluster, which it makes if there is none.
// Certs loads certificate, key and CA of a node, reads them again when the files change, and makes
// the TLS configurations of the peer port. The package opens no connections.
package pki
