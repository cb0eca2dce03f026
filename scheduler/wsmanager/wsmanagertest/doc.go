// Package wsmanagertest provides fakes of Gitpod's workspace manager and of the supervisors of its
// workspaces. A test can make them fail like real ones: they disappear, and they forget, repeat,
// reorder and omit messages.
//
// A fake does nothing by itself. A test waits for the calls that a fake receives, and then decides
// what happens next. Nothing here sleeps.
package wsmanagertest
