package podapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// MaxTermination is the maximum size of a termination message in Kubernetes, in bytes.
const MaxTermination = 4096

// Result is the result of a workload, as the worker reports it in the termination message and over
// HTTP.
type Result struct {
	Repository string `json:"repository,omitempty"`
	// Digest is set if and only if the workload succeeded.
	Digest    string `json:"digest,omitempty"`
	SizeBytes int64  `json:"sizeBytes,omitempty"`
	// Blame is the name of an imagebuilder.v1.Blame.
	Blame   string `json:"blame,omitempty"`
	Message string `json:"message,omitempty"`
	// Length is the length of the whole output, in bytes; 0 if it is not known.
	Length int64 `json:"length,omitempty"`
}

// ResultOf returns the Result for the return values of a runtime's Run.
func ResultOf(out workload.Outcome, err error) Result {
	if err == nil {
		return Result{Repository: out.Repository, Digest: out.Digest, SizeBytes: out.SizeBytes}
	}
	blame := imagebuilderv1.Blame_BLAME_INFRASTRUCTURE
	var f *workload.Failure
	if errors.As(err, &f) {
		blame = f.Blame
	}
	return Result{Blame: blame.String(), Message: err.Error()}
}

// Outcome returns the values for a runtime's Run. It is the inverse of ResultOf.
func (r Result) Outcome() (workload.Outcome, error) {
	if r.Digest != "" {
		return workload.Outcome{Repository: r.Repository, Digest: r.Digest, SizeBytes: r.SizeBytes}, nil
	}
	blame, ok := imagebuilderv1.Blame_value[r.Blame]
	if !ok || blame == 0 {
		blame = int32(imagebuilderv1.Blame_BLAME_INFRASTRUCTURE)
	}
	return workload.Outcome{}, &workload.Failure{Blame: imagebuilderv1.Blame(blame), Message: r.Message}
}

// Encode encodes the result in at most MaxTermination bytes. It cuts the middle of a message that
// is too long, because the failed step is at its beginning and the last output at its end.
func (r Result) Encode() []byte {
	for limit := len(r.Message); ; limit = limit * 3 / 4 {
		c := r
		c.Message = shorten(r.Message, limit)
		raw, err := json.Marshal(c)
		if err == nil && len(raw) <= MaxTermination {
			return raw
		}
		if limit == 0 {
			return nil // a repository and a digest always fit
		}
	}
}

func shorten(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	half := limit / 2
	return strings.ToValidUTF8(s[:half], "") + "\n...\n" + strings.ToValidUTF8(s[len(s)-half:], "")
}

// DecodeResult decodes a termination message.
func DecodeResult(message string) (Result, error) {
	var r Result
	if err := json.Unmarshal([]byte(message), &r); err != nil {
		return r, fmt.Errorf("the termination message is not a result: %w", err)
	}
	if r.Digest == "" && r.Blame == "" {
		return r, errors.New("the termination message names neither a digest nor a failure")
	}
	return r, nil
}
