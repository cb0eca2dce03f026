// Package wsmanagertest has a fake of Gitpod's workspace manager and of the
// supervisors of its workspaces, which do on command what real ones do to
// their clients: vanish, forget, repeat, reorder, and say half of it.
//
// A fake does nothing by itself. A test waits for what it was asked and says
// what happens next; nothing here sleeps.
package wsmanagertest
