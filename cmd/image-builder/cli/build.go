package cli

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// PhaseName returns the name of a phase in flags and tables, such as "running".
func PhaseName(p imagebuilderv1.Phase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_"))
}

// BlameName returns the name of a cause of failure in tables, such as "user".
func BlameName(b imagebuilderv1.Blame) string {
	return strings.ToLower(strings.TrimPrefix(b.String(), "BLAME_"))
}

// Age returns the time since t in one unit, such as "5m", or "-" without t.
func Age(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	switch d := time.Since(t.AsTime()); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// StatusRequest returns the request for the status of a build, which is named by its id or by the
// ref of its image.
func StatusRequest(name string) *imagebuilderv1.BuildStatusRequest {
	if strings.ContainsAny(name, ":/@") {
		return &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Ref{Ref: name}}
	}
	return &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: name}}
}
