package buildkit

import (
	"errors"
	"net/url"
	"strings"
	"syscall"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// maxMessage bounds the message of a failure, in bytes, because messages are replicated.
const maxMessage = 4 << 10

func userFailure(err error) *workload.Failure {
	return failure(builds.BlameUser, "build failed: "+err.Error(), err)
}

func infrastructureFailure(err error) *workload.Failure {
	return failure(builds.BlameInfrastructure, err.Error(), err)
}

func failure(blame imagebuilderv1.Blame, message string, err error) *workload.Failure {
	return &workload.Failure{Blame: blame, Message: strings.TrimSpace(message), Err: err}
}

// bounded redacts the message of a failure and then truncates it to maxMessage bytes. The order
// matters: a truncated secret would no longer match the redaction. Other errors are returned
// unchanged.
func bounded(err error, redact func(string) string) error {
	var f *workload.Failure
	if !errors.As(err, &f) {
		return err
	}
	out := *f
	if out.Message = redact(f.Message); len(out.Message) > maxMessage {
		out.Message = strings.ToValidUTF8(out.Message[:maxMessage], "") + " ..."
	}
	return &out
}

func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || strings.Contains(err.Error(), syscall.ENOSPC.Error())
}

// missing reports whether the text says that a base image, or its platform, does not exist.
func missing(text string) bool {
	return strings.Contains(text, "not found") || strings.Contains(text, "no match for platform")
}

// missingInGit reports whether the text says that a repository lacks a ref or a folder. The policy
// has checked before that the repository can be read.
func missingInGit(text string) bool {
	for _, phrase := range []string{"does not contain ref", "couldn't find remote ref", "not our ref", "unadvertised object", "reference is not a tree", "invalid subdir"} {
		if strings.Contains(text, phrase) {
			return true
		}
	}
	return false
}

// withoutURL removes the URL from an error of an HTTP client.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
