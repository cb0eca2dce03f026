// Package podapi is what the runtime and the containers of its pods agree on:
// the files that are mounted, the result in the termination message, and the
// HTTP interface of the worker. It depends on no client of anything.
package podapi
