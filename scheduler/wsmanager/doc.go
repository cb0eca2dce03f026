// Package wsmanager is the runtime that builds in Gitpod workspaces of type IMAGEBUILD. A workspace
// manager (ws-manager) starts these workspaces.
//
// A workspace outlives the node that started it, and pushes and tags the image itself. Its id
// follows from build and attempt (WorkspaceID). Therefore any node can adopt it: the node requests
// its start again, ws-manager refuses this because it exists, and the node follows it.
//
// Each Runtime has one subscription for the updates of all workspaces (feed.go). An update is only
// a hint: it may be lost, late or incomplete. Each update is merged into a view (view.go) that
// never goes back to an earlier state. A reconciler reads the status after every subscription and
// periodically (reconcile.go). verdict.go alone decides what the end of a workspace means. A
// success counts only once the registry has the images (images.go).
//
// The log comes from the supervisor inside the workspace (supervisor.go, pump.go). The supervisor's
// terminal replays the output that it kept to each new reader; align.go decides which part of the
// replay is new.
//
// This package does not tag images, retry attempts, or redact logs. The credentials of the install
// never reach the workspace through it. The terminal is one stream: BuildKit's printer has merged
// the output of all steps, and both streams of each step. The log redacts the merged stream, and
// finds the lines with which the printer begins another step (builds/logs, stepSwitch). A limit
// remains: a line of the other stream of the same step may cut a secret in two, and then both parts
// are visible.
package wsmanager
