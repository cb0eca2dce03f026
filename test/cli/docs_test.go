package cli

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/docs"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// otherTests lists commands that another test runs: the file, how the command begins, and the
// folder and name of the test.
var otherTests = []struct{ file, begins, dir, test string }{
	{"docs/runbooks.md", "image-builder", "test/operator", "Test_Runbooks"},
	{"docs/runbooks.md", "curl --unix-socket", "test/operator", "Test_Identity_OperatorSocket"},
	{"docs/runbooks.md", "go tool pprof", "test/operator", "Test_Identity_OperatorSocket"},
	{"docs/runbooks.md", "curl --cacert", "test/operator", "Test_Identity_Roles"},
	{"docs/migration-gitpod.md", "image-builder run", "test/gitpod", "Test_Migration"},
	{"deploy/chaos/README.md", "image-builder verify", "test/operator", "Test_Verify_Command"},
	{"deploy/chaos/README.md", "curl -X POST", "test/operator", "Test_Verify_Command"},
	{"README.md", "image-builder run --config", "test/cli", "Test_CLI_BuildListStatusLogsCancel"},
	{"README.md", "image-builder build . --provenance", "test/dockerfile", "Test_Attestations"}, // it needs the image of a scanner
	{"README.md", "make run", "test/cli", "Test_Dev_Exit"},
	{"", "make chaos", "test/chaos", "Test_Chaos"},
	{"docs/install.md", "kubectl", "test/chart", "Test_Chart"},
	{"docs/install.md", "helm", "test/chart", "Test_Chart"},
	{"docs/scaling.md", "helm", "test/chart", "Test_Chart"},
	{"docs/runbooks.md", "kubectl", "test/chart", "Test_Chart"},
	{"deploy/kubernetes/README.md", "kubectl", "test/chart", "Test_Chart"},
	{"deploy/chaos/README.md", "kubectl apply", "tools/deploytest", "Test_Docs_AcceptedByAPIServer"},
}

// exceptions maps commands that no test runs to the reason.
var exceptions = map[string]string{
	"make test": "it runs this test",
	"docker build -f deploy/image/Dockerfile -t registry.example.com/image-builder:0.3.0 .": "Docker's; the service builds its image in Test_Chart",
	"docker push registry.example.com/image-builder:0.3.0":                                  "Docker's",
}

// Test_Docs_EveryCommandIsRun checks that Test_Docs_Commands or another existing test runs each
// command of the docs, or that the command is a known exception.
func Test_Docs_EveryCommandIsRun(t *testing.T) {
	all := commands(t)
	unused := map[string]bool{}
	for e := range exceptions {
		unused[e] = true
	}
	for _, c := range all {
		delete(unused, c.String())
		if exceptions[c.String()] == "" && !runByOtherTest(t, c) && !runByThisTest(c) {
			t.Errorf("%s: no test runs it", c.At())
		}
	}
	if len(unused) > 0 {
		t.Errorf("exceptions that no text has: %v", unused)
	}
	if len(all) < 40 {
		t.Errorf("found only %d commands", len(all))
	}
}

func commands(t *testing.T) []docs.Command {
	t.Helper()
	all, err := docs.Commands(testkit.Root())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// runByOtherTest reports whether another test runs the command.
func runByOtherTest(t *testing.T, c docs.Command) bool {
	t.Helper()
	for _, e := range otherTests {
		if e.file != "" && e.file != c.File || !strings.HasPrefix(c.String(), e.begins) {
			continue
		}
		files, err := filepath.Glob(testkit.File(filepath.Join(e.dir, "*_test.go")))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(f string) bool {
			raw, err := os.ReadFile(f)
			return err == nil && bytes.Contains(raw, []byte("\nfunc "+e.test+"("))
		}) {
			t.Errorf("%s: %s has no test %s", c.At(), e.dir, e.test)
		}
		return true
	}
	return false
}

// runByThisTest reports whether Test_Docs_Commands runs the command. The output of git archive is
// the input of the next command.
func runByThisTest(c docs.Command) bool {
	return c.Words[0] == "image-builder" || c.Words[0] == "git" && c.Words[1] == "archive"
}

// Test_Docs_CommandLines compares commands and options of image-builder with its own help, and
// targets and variables of make with the Makefile.
func Test_Docs_CommandLines(t *testing.T) {
	makefile, err := os.ReadFile(testkit.File("Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	help := map[string]string{}
	for _, c := range commands(t) {
		words := c.Words
		if i := slices.Index(words, "--"); words[0] == "kubectl" && i > 0 {
			words = words[i+1:]
		}
		switch words[0] {
		case "image-builder":
			path := words[1:2]
			if slices.Contains([]string{"cluster", "cache", "snapshot", "doctor"}, words[1]) {
				path = words[1:3]
			}
			key := strings.Join(path, " ")
			if help[key] == "" {
				out, errOut, status := harness.CLI(t, "", append(slices.Clone(path), "--help")...)
				if status != 0 || !strings.Contains(out, "image-builder "+key) {
					t.Errorf("%s: there is no such command: %s%s", c.At(), out, errOut)
					continue
				}
				help[key] = out
			}
			for _, w := range words[1+len(path):] {
				option, _, _ := strings.Cut(w, "=")
				if !strings.HasPrefix(w, "-") || w == "-" {
					continue
				}
				if !regexp.MustCompile(`(?m)^ +(-\w, )?` + option + `[ \[,]`).MatchString(help[key]) {
					t.Errorf("%s: there is no option %s", c.At(), option)
				}
			}
		case "make":
			for _, w := range words[1:] {
				if name, _, ok := strings.Cut(w, "="); ok && !strings.Contains(string(makefile), "$("+name+")") || !ok && !strings.Contains(string(makefile), "\n"+w+":") {
					t.Errorf("%s: the Makefile has no %s", c.At(), w)
				}
			}
		}
	}
}

// Test_Docs_Commands runs the commands of image-builder. Client commands and cache commands run
// against a node with BuildKit, commands about nodes against a cluster of three, and commands that
// write files run in an empty folder.
func Test_Docs_Commands(t *testing.T) {
	w := buildkittest.Start(t, nil)
	c := harness.StartCluster(t, 3, w.Registry.Addr, nil)
	goes := c.Others(c.Leader())[0]
	repo := testkit.NewGitRepo(t, testkit.GitServer{})
	dockerfile := "FROM " + w.Base + "\nARG V\nRUN echo v=$V\n"
	repo.Commit(map[string]string{"sub/Dockerfile": dockerfile + "RUN echo sub\n", "docker/Dockerfile": dockerfile + "RUN echo archive\n"})
	folder := w.Context(t, dockerfile, nil)
	slow := w.Context(t, "FROM base\nRUN sleep 600\n", nil)
	w.Registry.Push(t, "team/ubuntu:22.04", registrytest.RandomImage(t, 1, 1<<10))
	image := w.Registry.Addr + "/team/ubuntu:22.04"
	last := strings.TrimSpace(harness.MustCLI(t, w.GRPC, "build", "--ref", w.Base, "--detach"))
	w.Wait(t, t.Context(), last)
	folders := map[string]string{} // for the files that commands write, by document
	ran := 0
	var input []byte
	for _, command := range commands(t) {
		if runByOtherTest(t, command) || !runByThisTest(command) {
			continue
		}
		if command.Words[0] == "git" {
			cmd := exec.CommandContext(t.Context(), "git", command.Words[1:]...)
			cmd.Dir = repo.Dir
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%s: %v", command.At(), err)
			}
			input = out
			continue
		}
		if folders[command.File] == "" {
			folders[command.File] = t.TempDir()
		}
		with := map[string]string{
			"https://example.com/a.git#main:sub": repo.URL + "#main:sub", "ubuntu:22.04": image, "IMAGE": image, "ID": last,
			"image-builder-4": goes.Name,
		}
		server, dir := w.Node.Socket(), folder
		switch args := command.Words[1:]; args[0] {
		case "cancel":
			with["ID"] = strings.TrimSpace(harness.MustCLI(t, w.GRPC, "build", slow, "--detach"))
		case "cluster":
			server, dir = c.Leader().Socket(), folders[command.File]
			if args[1] == "remove" {
				goes.Stop()
			}
		}
		args := slices.Clone(command.Words[1:])
		for i, a := range args {
			if v := with[a]; v != "" {
				args[i] = v
			}
		}
		cmd := exec.CommandContext(t.Context(), harness.Binary(t), args...)
		cmd.Dir, cmd.Env = dir, append(harness.CLIEnv(server), "TOKEN=a-secret-token")
		if command.Piped {
			cmd.Stdin = bytes.NewReader(input)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				t.Fatal(err)
			}
			t.Errorf("%s: status %d: %s", command.At(), exit.ExitCode(), out)
		}
		ran++
	}
	t.Logf("%d commands ran", ran)
	if ran < 20 {
		t.Error("that are too few")
	}
}
