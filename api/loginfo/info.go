package loginfo

import (
	"strings"

	"github.com/image-builder-ha/image-builder/proto/builder"
)

// TokenHeader is the header of the token. Gitpod's workspaces expect the token of their owner in
// the same header (docs/gitpod-contract.md, section 4).
const TokenHeader = "x-gitpod-owner-token"

// TaskID is the id of the only task of a build, and the alias of its terminal.
const TaskID = "build"

const root = "/builds/"

// Path returns the path of the log of a build, without a slash at its end.
func Path(build string) string { return root + build }

// Info returns the address of the log of a build for clients. An empty token is left out.
func Info(publicURL, build, token string) *builder.LogInfo {
	i := &builder.LogInfo{Url: strings.TrimRight(publicURL, "/") + Path(build)}
	if token != "" {
		i.Headers = map[string]string{TokenHeader: token}
	}
	return i
}
