//go:build kubernetes

package chart

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/image-builder-ha/image-builder/test/docs"
	"github.com/image-builder-ha/image-builder/test/kubelet"
)

// Documents with commands that these tests run: those of kubectl and helm, and in plainly all.
const (
	installing = "docs/install.md"
	scaling    = "docs/scaling.md"
	runbooks   = "docs/runbooks.md"
	plainly    = "deploy/kubernetes/README.md"
)

// texts are commands of the documentation.
type texts struct {
	commands []docs.Command
	ran      map[string]bool // by Command.At
	// words replaces examples of the documentation by names and addresses of this cluster.
	words *strings.Replacer
	// path is the PATH of shells, with kubectl, helm and image-builder.
	path string
}

// readTexts reads the commands, and makes copies of files that an operator has to edit.
func (s *install) readTexts() *texts {
	s.t.Helper()
	all, err := docs.Commands(root)
	if err != nil {
		s.t.Fatal(err)
	}
	const standalone = "deploy/helm/image-builder/values-standalone.yaml"
	raw, err := os.ReadFile(filepath.Join(root, standalone))
	if err != nil {
		s.t.Fatal(err)
	}
	dir, programs := s.t.TempDir(), s.t.TempDir()
	edited := filepath.Join(dir, filepath.Base(standalone))
	if err := os.WriteFile(edited, []byte(strings.ReplaceAll(string(raw), "registry.example.com", s.reg.Addr)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	helm, err := filepath.Abs(filepath.Join(root, "bin/helm"))
	if err != nil {
		s.t.Fatal(err)
	}
	for name, file := range map[string]string{"kubectl": kubelet.Program("kubectl"), "helm": helm, "image-builder": kube.Binary} {
		if err := os.Symlink(file, filepath.Join(programs, name)); err != nil {
			s.t.Fatal(err)
		}
	}
	return &texts{
		ran:      map[string]bool{},
		commands: slices.DeleteFunc(all, func(c docs.Command) bool { return !runsHere(c) }),
		words:    strings.NewReplacer("registry.example.com", s.reg.Addr, standalone, edited),
		path:     programs + string(os.PathListSeparator) + os.Getenv("PATH"),
	}
}

func runsHere(c docs.Command) bool {
	switch c.File {
	case plainly:
		return true
	case installing, scaling, runbooks:
		return c.Words[0] == "kubectl" || c.Words[0] == "helm"
	}
	return false
}

// commands returns the commands of a document that contain words, in order.
func (s *install) commands(file, words string) (out []docs.Command) {
	s.t.Helper()
	for _, c := range s.texts.commands {
		if c.File == file && strings.Contains(c.String(), words) {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		s.t.Fatalf("%s has no command with %q", file, words)
	}
	return out
}

// left returns the commands that did not run.
func (x *texts) left() []docs.Command {
	return slices.DeleteFunc(slices.Clone(x.commands), func(c docs.Command) bool { return x.ran[c.At()] })
}

// text returns the only command of a document that contains words.
func (s *install) text(file, words string) docs.Command {
	s.t.Helper()
	found := s.commands(file, words)
	if len(found) != 1 {
		s.t.Fatalf("%s has %d commands with %q", file, len(found), words)
	}
	return found[0]
}

// typed runs a command with further arguments in a shell, in the folder of the module, and returns
// its output.
func (s *install) typed(c docs.Command, more ...string) string {
	s.t.Helper()
	return s.typedIn(root, c, more...)
}

func (s *install) typedIn(dir string, c docs.Command, more ...string) string {
	s.t.Helper()
	line := s.texts.words.Replace(strings.Join(append([]string{c.String()}, more...), " "))
	s.texts.ran[c.At()] = true
	out, err := s.try(dir, "sh", "-euc", line)
	if err != nil {
		s.t.Fatalf("%s: %v, run as %s\n%s", c.At(), err, line, out)
	}
	return out
}

// helmInstall installs the release with the command of docs/install.md and the values of this
// cluster.
func (s *install) helmInstall() {
	s.t.Helper()
	s.typed(s.text(installing, "helm install"), "--values", s.values(), "--timeout", "3m")
}

// tag returns the tag of the image in a command of docs/install.md.
func (s *install) tag(words string) string {
	s.t.Helper()
	return value(s.text(installing, words), "image.tag")
}

// value returns the value of a setting KEY=VALUE in a command, or "".
func value(c docs.Command, key string) string {
	for _, w := range c.Words {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			return v
		}
	}
	return ""
}
