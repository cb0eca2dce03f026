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

// Texts whose commands of kubectl and helm are run here; of plainly, all.
const (
	installing = "docs/install.md"
	scaling    = "docs/scaling.md"
	runbooks   = "docs/runbooks.md"
	plainly    = "deploy/kubernetes/README.md"
)

// texts are the commands that the project's texts tell operators to type.
type texts struct {
	commands []docs.Command
	ran      map[string]bool // by place
	// words puts what this cluster has in place of the texts' examples.
	words *strings.Replacer
	// path is where shells find kubectl, helm and image-builder.
	path string
}

// readTexts reads them. What an operator edits is edited in copies of files.
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

// commands answers those of a text that hold some words, in order.
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

// left are the commands that did not run.
func (x *texts) left() []docs.Command {
	return slices.DeleteFunc(slices.Clone(x.commands), func(c docs.Command) bool { return x.ran[c.At()] })
}

// text is the one command of a text that holds some words.
func (s *install) text(file, words string) docs.Command {
	s.t.Helper()
	found := s.commands(file, words)
	if len(found) != 1 {
		s.t.Fatalf("%s has %d commands with %q", file, len(found), words)
	}
	return found[0]
}

// typed runs a command in a shell, in the module's folder, with further
// arguments, and answers what it writes.
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

// helmInstall installs the release, by the text's command and the values of this
// cluster.
func (s *install) helmInstall() {
	s.t.Helper()
	s.typed(s.text(installing, "helm install"), "--values", s.values(), "--timeout", "3m")
}

// tag is the image's tag in a command of docs/install.md.
func (s *install) tag(words string) string {
	s.t.Helper()
	return value(s.text(installing, words), "image.tag")
}

// value is that of a setting, KEY=VALUE, or "".
func value(c docs.Command, key string) string {
	for _, w := range c.Words {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			return v
		}
	}
	return ""
}
