// Package transcript records the visible behaviour of one node: a fixed sequence of calls of both
// APIs, of the HTTP endpoints and of the command line, with the results. The package has only tests.
//
// Three files in testdata hold the record:
//
//   - wire.golden: what clients, dashboards and configuration files depend on. gRPC codes, names and
//     values of fields, the descriptors of the APIs, JSON keys, names and labels of metrics,
//     configuration keys with their defaults, exit statuses, and all messages of Gitpod's API byte
//     for byte.
//   - texts.golden: texts for people that the sequence shows. Error messages of the native API, help
//     and tables of the commands, meanings of configuration keys, help of metrics, alerts and
//     dashboards.
//   - strings.golden: texts for people in the Go code, most of which the sequence does not show.
//
// Values that differ between runs have placeholders: ids are numbered in the order in which they
// appear, times and Raft indexes have their kind as name. All else is fixed: images have the same
// bytes in each run, and the node reaches registry hosts by name through a proxy of the test, so
// that references, digests and the keys of images do not depend on ports.
//
// After a change of texts, refresh texts.golden and strings.golden and review the difference:
//
//	go test ./test/transcript -update
//
// This command does not write wire.golden, because a difference there is a change of behaviour.
// wire.golden is recorded from a binary that is named:
//
//	go test ./test/transcript -run Test_Transcript -update -program /path/of/image-builder
//
// Without -update, -program compares that binary with wire.golden alone, because its texts may be
// those of another version.
package transcript
