// Package podapi defines the interface between the runtime and the containers of its pods: the
// mounted files, the result in the termination message, and the HTTP interface of the worker. It
// does not depend on any client library.
package podapi
