// Package wsmanager is the runtime that builds in Gitpod workspaces of type
// IMAGEBUILD, which a workspace manager (ws-manager) starts.
//
// A workspace outlives the node that started it, pushes and tags by itself,
// and has a name that follows from build and attempt (WorkspaceID). So any node
// adopts it: by asking for its start again, which is refused, and following it.
//
// One subscription per Runtime carries the updates of all workspaces
// (feed.go). It is a hint only: updates may be lost, old, or lack parts, so
// each is merged into a view (view.go) that never goes back, and a reconciler
// asks for the status after every subscription and from time to time
// (reconcile.go). What the end of a workspace means is decided in one place
// (verdict.go), and success counts only once the registry has the images
// (images.go).
//
// The log comes from the supervisor inside the workspace (supervisor.go,
// pump.go). Its terminal repeats what it kept to each new reader; align.go
// decides what of it is new.
//
// Not here: tagging, retries of attempts, redaction, credentials of the
// install; these never reach the workspace from us.
package wsmanager
