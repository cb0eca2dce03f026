package follow

import (
	"fmt"
	"io"
	"os"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"

	"github.com/mattn/go-isatty"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// isTerminal reports whether a person may look on.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// plainView writes the log as it is, and phases beside it.
type plainView struct{ out, errOut io.Writer }

var _ view = (*plainView)(nil)

func (v *plainView) phase(b *imagebuilderv1.Build) error {
	_, err := fmt.Fprintln(v.errOut, cli.PhaseName(b.Phase))
	return err
}

func (v *plainView) log(c client.Chunk) error {
	if _, err := v.out.Write(c.Content); err != nil {
		return cli.ExitWith(cli.ExitFailed, err)
	}
	return nil
}

func (v *plainView) end(*imagebuilderv1.Build) {}
func (v *plainView) close()                    {}

// jsonView writes the build at every change of its phase, a line each.
type jsonView struct{ out, errOut io.Writer }

var _ view = (*jsonView)(nil)

func (v *jsonView) phase(b *imagebuilderv1.Build) error {
	raw, err := protojson.Marshal(b)
	if err != nil {
		return fmt.Errorf("render the build: %w", err)
	}
	_, err = fmt.Fprintln(v.out, string(raw))
	return err
}

func (v *jsonView) log(client.Chunk) error { return nil }

func (v *jsonView) end(b *imagebuilderv1.Build) {
	if err := v.phase(b); err != nil {
		fmt.Fprintln(v.errOut, err)
	}
}

func (v *jsonView) close() {}
