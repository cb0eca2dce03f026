package api

import (
	"strings"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// info returns the BuildInfo of a build. withToken adds the token for its log, which only
// requesters of the build get.
func (s *Service) info(b *imagebuilderv1.Build, withToken bool) *builder.BuildInfo {
	i := &builder.BuildInfo{
		BuildId: b.Id, Ref: b.Ref, BaseRef: b.BaseRef, Status: gitpodStatus(b),
		StartedAt: b.GetCreatedAt().GetSeconds(),
	}
	if s.logInfo != nil {
		i.LogInfo = s.logInfo(b.Id, withToken)
	}
	return i
}

// gitpodStatus maps the phase of a build to Gitpod's enum.
func gitpodStatus(b *imagebuilderv1.Build) builder.BuildStatus {
	switch {
	case b.Phase == builds.Succeeded:
		return builder.BuildStatus_done_success
	case builds.Terminal(b.Phase):
		return builder.BuildStatus_done_failure
	}
	return builder.BuildStatus_running
}

// blamePhrases replaces the phrases that make Gitpod's server blame the user.
var blamePhrases = strings.NewReplacer(
	"headless task failed:", "headless task failed -",
	"cannot resolve image", "image cannot be resolved",
)

// gitpodMessage returns the message of a build that has ended. Gitpod's server derives the blame
// from the text (docs/gitpod-contract.md, section 5), so the text matches the blame of the build. A
// text with 'base image does not exist' stays as it is: it makes the server retry.
func gitpodMessage(b *imagebuilderv1.Build) string {
	const user = "build failed:"
	switch {
	case b.Phase == builds.Succeeded:
		return ""
	case strings.Contains(b.Message, "base image does not exist"):
		return b.Message
	case b.Blame == builds.BlameUser && !strings.HasPrefix(b.Message, user):
		return user + " " + b.Message
	case b.Blame == builds.BlameUser:
		return b.Message
	}
	return "the build did not succeed: " + blamePhrases.Replace(b.Message)
}
