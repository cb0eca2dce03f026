package follow

import (
	"fmt"
	"io"
	"os"

	"github.com/mattn/go-isatty"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// view shows one build. One goroutine calls log, another one calls the other methods.
type view interface {
	// phase shows that the build has entered another phase.
	phase(b *imagebuilderv1.Build) error
	// log shows the next part of the log.
	log(c client.Chunk) error
	// end is called after the end of the build and of its log. It returns when everything is
	// displayed.
	end(b *imagebuilderv1.Build)
	// close releases the view, whether end was called or not.
	close()
}

// isTerminal reports whether w is a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// plainView writes the log to out and the phases to errOut.
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

// jsonView writes the build as one line of JSON at each change of its phase.
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
