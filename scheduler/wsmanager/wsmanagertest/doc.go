// Package wsmanagertest provides fakes of Gitpod's workspace manager and of the supervisors of its
// workspaces. On command they behave badly as real ones do: they disappear, forget, repeat, reorder
// and omit.
//
// A fake does nothing by itself. A test waits for the calls that a fake receives, and then decides
// what happens next. Nothing here sleeps.
package wsmanagertest
