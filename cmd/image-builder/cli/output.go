package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"sigs.k8s.io/yaml"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// print shows a message in the chosen format; table renders it for people.
func (c *ClientFlags) Print(w io.Writer, m proto.Message, table func(io.Writer)) error {
	if c.Output == "table" {
		t := tabwriter.NewWriter(Harmless(w), 0, 4, 2, ' ', 0)
		table(t)
		return t.Flush()
	}
	raw, err := protojson.MarshalOptions{Multiline: true, Indent: "  "}.Marshal(m)
	if err == nil && c.Output == "yaml" {
		raw, err = yaml.JSONToYAML(raw)
	}
	if err != nil {
		return fmt.Errorf("render the answer: %w", err)
	}
	_, err = fmt.Fprintln(w, strings.TrimSuffix(string(raw), "\n"))
	return err
}

// Harmless returns a writer that replaces control characters, which texts of other people may hold,
// by question marks before they reach a terminal. Tabs and line ends stay.
func Harmless(w io.Writer) io.Writer { return harmless{w} }

type harmless struct{ io.Writer }

// Write writes text; what a terminal would act on becomes a question mark.
func (h harmless) Write(p []byte) (int, error) {
	text := strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) {
			return '?'
		}
		return r
	}, string(p))
	if _, err := io.WriteString(h.Writer, text); err != nil {
		return 0, err
	}
	return len(p), nil
}

// phaseName is how people and flags call a phase.
func PhaseName(p imagebuilderv1.Phase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "PHASE_"))
}

func BlameName(b imagebuilderv1.Blame) string {
	return strings.ToLower(strings.TrimPrefix(b.String(), "BLAME_"))
}

func ParsePhase(s string) (imagebuilderv1.Phase, error) {
	v, ok := imagebuilderv1.Phase_value["PHASE_"+strings.ToUpper(s)]
	if !ok || v == 0 {
		return 0, ExitWith(ExitUsage, fmt.Errorf("phase %q is unknown; use queued, assigned, starting, running, pushing, succeeded, failed or cancelled", s))
	}
	return imagebuilderv1.Phase(v), nil
}

// age is how long ago something was, short.
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

func BuildTable(w io.Writer, b *imagebuilderv1.Build) {
	row := func(k, v string) {
		if v != "" {
			fmt.Fprintf(w, "%s\t%s\n", k, v)
		}
	}
	row("build", b.Id)
	row("phase", PhaseName(b.Phase))
	row("waiting", b.WaitingReason)
	row("image", b.Ref)
	row("digest", b.Digest)
	row("base", b.BaseRef)
	row("requesters", strings.Join(b.Requesters, ", "))
	row("created", Age(b.CreatedAt)+" ago")
	if b.EndedAt != nil {
		row("ended", Age(b.EndedAt)+" ago")
	}
	if b.Blame != 0 {
		row("blame", BlameName(b.Blame))
	}
	row("message", b.Message)
	for _, a := range b.Attempts {
		var phases []string
		for _, h := range a.History {
			phases = append(phases, fmt.Sprintf("%s +%s", PhaseName(h.Phase), h.At.AsTime().Sub(a.StartedAt.AsTime()).Round(time.Millisecond)))
		}
		row(fmt.Sprintf("attempt %d", a.Number), fmt.Sprintf("on %s, epoch %d, %s: %s", a.Owner, a.Epoch, a.Runtime, strings.Join(phases, ", ")))
		row("", a.Message)
	}
}

// isRef tells an image ref from a build id.
func isRef(s string) bool { return strings.ContainsAny(s, ":/@") }

func StatusRequest(name string) *imagebuilderv1.BuildStatusRequest {
	if isRef(name) {
		return &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Ref{Ref: name}}
	}
	return &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: name}}
}
