// Package docs reads the commands in the code blocks of the documentation, so that tests can run
// them and compare them with the command line.
package docs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Command is one simple command of a shell block.
type Command struct {
	File string // from the root of the module
	Line int
	// Words are the command's name and arguments, without quotes. A command substitution is one
	// word, as written.
	Words []string
	// Piped says that the input of the command is the output of the command before it.
	Piped bool
}

// String returns the command without quotes.
func (c Command) String() string { return strings.Join(c.Words, " ") }

// At returns the place and the command, for messages.
func (c Command) At() string { return fmt.Sprintf("%s:%d: %s", c.File, c.Line, c) }

// Files returns the paths of README.md, CONTRIBUTING.md, ARCHITECTURE.md, all files of docs, and
// each README.md below deploy.
func Files(root string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"} {
		files = append(files, filepath.Join(root, name))
	}
	err = filepath.WalkDir(filepath.Join(root, "deploy"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "README.md" {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

// Commands returns all commands of the shell blocks of Files, in order. The fence of a shell block
// names sh, bash or no language.
func Commands(root string) (all []Command, err error) {
	files, err := Files(root)
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return nil, err
		}
		all = append(all, InText(name, string(raw))...)
	}
	return all, nil
}

var fence = regexp.MustCompile("^\\s*```(\\w*)\\s*$")

// InText returns the commands of one text.
func InText(file, text string) (all []Command) {
	inside, shell, kept, began := false, false, "", 0
	for i, line := range strings.Split(text, "\n") {
		if m := fence.FindStringSubmatch(line); m != nil {
			inside = !inside
			shell = inside && (m[1] == "" || m[1] == "sh" || m[1] == "bash")
			continue
		}
		if !shell {
			continue
		}
		if kept == "" {
			began = i + 1
		}
		if more, ok := strings.CutSuffix(line, "\\"); ok {
			kept += more
			continue
		}
		for j, words := range Split(kept + line) {
			all = append(all, Command{File: file, Line: began, Words: words, Piped: j > 0})
		}
		kept = ""
	}
	return all
}

// Split parses a line of shell with simple commands, pipes, quotes and comments. It leaves out
// redirections.
func Split(line string) (commands [][]string) {
	var words []string
	var word strings.Builder
	begun, quote, depth := false, rune(0), 0
	next := func() {
		if begun {
			words = append(words, word.String())
		}
		word.Reset()
		begun = false
	}
	end := func() {
		next()
		for i := 0; i < len(words); i++ { // > FILE
			if words[i] == ">" {
				words = append(words[:i], words[min(i+2, len(words)):]...)
				i--
			}
		}
		if len(words) > 0 {
			commands = append(commands, words)
		}
		words = nil
	}
	for i, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && depth == 0 && (c == '\'' || c == '"'):
			quote, begun = c, true
		case quote == 0 && c == '(' && strings.HasSuffix(line[:i], "$"), depth > 0 && c == '(':
			depth++
			word.WriteRune(c)
		case quote == 0 && depth > 0 && c == ')':
			depth--
			word.WriteRune(c)
		case quote != 0 || depth > 0:
			word.WriteRune(c)
		case c == '#' && !begun:
			end()
			return commands
		case c == '|':
			end()
		case c == ' ' || c == '\t':
			next()
		default:
			word.WriteRune(c)
			begun = true
		}
	}
	end()
	return commands
}
