package operator

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/docs"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
	"github.com/image-builder-ha/image-builder/verify"
)

// verifyJSON is the part of the output of `verify -o json` that the tests use.
type verifyJSON struct {
	OK       bool
	Promises []struct{ Promise string }
	Counts   struct {
		Acknowledged int
		LogBytes     int64
		Ends         map[string]int
	}
	Faults []struct{ Name string }
}

func verifyReport(t *testing.T, out string) (r verifyJSON) {
	t.Helper()
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	return r
}

// junit is a report that CI systems read.
type junit struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Cases    []struct {
		Name    string `xml:"name,attr"`
		Failure *struct {
			Message string `xml:"message,attr"`
		} `xml:"failure"`
	} `xml:"testcase"`
}

// Test_Verify_Command verifies a cluster from the command line, with faults announced by file and
// by HTTP. It checks the recorded evidence again: unchanged, and with the end of one build changed.
func Test_Verify_Command(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	c := harness.StartCluster(t, 3, reg.Addr, nil)
	dir := t.TempDir()
	record, page, faults := filepath.Join(dir, "record"), filepath.Join(dir, "page.html"), filepath.Join(dir, "faults")
	if err := os.WriteFile(faults, []byte(`{"name":"by file","state":"begin"}`+"\n"+`{"name":"by file","state":"end"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	servers := c.Nodes[0].GRPC + "," + c.Nodes[1].GRPC + "," + c.Nodes[2].GRPC
	cmd := exec.Command(harness.Binary(t), "verify", "--server", servers, "--repository", reg.Addr+"/library/verify", "--images", "5", "--duration", "5s", "--rate", "10",
		"--record", record, "--html", page, "--fault-file", faults, "--fault-listen", "127.0.0.1:0", "-o", "json")
	var out bytes.Buffer
	log := &verifyOutput{}
	cmd.Stdout, cmd.Stderr = &out, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	testkit.Eventually(t, time.Minute, "it listens for faults", func() bool { return log.url() != "" })
	docs.Run(t, "", "deploy/chaos/README.md", "curl -X POST", "127.0.0.1:9900", strings.TrimPrefix(log.url(), "http://"))
	if err := <-ended; err != nil {
		t.Fatalf("%v:\n%s\n%s", err, out.String(), log.text())
	}
	r := verifyReport(t, out.String())
	if !r.OK || r.Counts.Acknowledged < 20 || len(r.Faults) != 2 {
		t.Errorf("%+v", r)
	}
	if raw, err := os.ReadFile(page); err != nil || !bytes.Contains(raw, []byte("leader-kill")) || !bytes.Contains(raw, []byte("by file")) {
		t.Errorf("the page does not show both faults (%v)", err)
	}
	again, errOut, status := harness.CLI(t, "", "verify", "--check", record, "-o", "json")
	if r2 := verifyReport(t, again); status != 0 || !r2.OK || r2.Counts.LogBytes != r.Counts.LogBytes || r2.Counts.Acknowledged != r.Counts.Acknowledged {
		t.Errorf("verify --check, status %d: %+v %s", status, r2, errOut)
	}
	raw, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	// In the last observation of a build, the phase succeeded becomes failed.
	end := regexp.MustCompile(`(?m)^(\{"end":.*"phase":)"succeeded"(,"expect":"succeeded".*)$`)
	at := end.FindSubmatchIndex(raw)
	if at == nil {
		t.Fatal("the record holds no build that succeeded")
	}
	build := regexp.MustCompile(`"build":"([^"]+)"`).FindSubmatch(raw[at[0]:at[1]])[1]
	changed := append(append(append([]byte{}, raw[:at[3]]...), `"failed"`...), raw[at[4]:]...)
	if err := os.WriteFile(record, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	text, errOut, status := harness.CLI(t, "", "verify", "--check", record, "-o", "junit")
	var suite junit
	if err := xml.Unmarshal([]byte(text), &suite); err != nil || status != 1 {
		t.Fatalf("status %d, %v, %s:\n%s", status, err, errOut, text)
	}
	if suite.Tests != len(r.Promises) || suite.Failures == 0 {
		t.Errorf("%+v", suite)
	}
	for _, tc := range suite.Cases {
		broken := tc.Failure != nil
		if tc.Name == string(verify.AsExpected) && (!broken || !strings.Contains(tc.Failure.Message, string(build))) {
			t.Errorf("it does not say that build %s did not end as expected: %+v", build, tc)
		}
		if tc.Name == string(verify.LogsOnlyGrow) && broken {
			t.Errorf("logs are right: %+v", tc)
		}
	}
}

// verifyOutput collects the output of verify, and finds the address at which verify takes faults.
type verifyOutput struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (a *verifyOutput) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all.Write(p)
}

func (a *verifyOutput) text() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all.String()
}

var faultsURL = regexp.MustCompile(`url="?(http://[^/]+)/faults`)

func (a *verifyOutput) url() string {
	if m := faultsURL.FindStringSubmatch(a.text()); m != nil {
		return m[1]
	}
	return ""
}

// Test_Verify_Command_WrongUsage checks status 2 and the messages of wrong usage.
func Test_Verify_Command_WrongUsage(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken")
	if err := os.WriteFile(broken, []byte("no evidence\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-o", "yaml"}, `--output "yaml" is unknown; use table, json or junit`},
		{[]string{"--check", broken}, "--check " + broken},
		{[]string{"--check", broken + "-not-there"}, "--check: "},
		{[]string{"--image", "r.example.com/a:1", "--fault-listen", "nowhere"}, "--fault-listen: "},
	} {
		if out, errOut, status := harness.CLI(t, "127.0.0.1:1", append([]string{"verify"}, c.args...)...); status != 2 || !strings.Contains(errOut, c.want) {
			t.Errorf("%v: status %d, %s %s", c.args, status, out, errOut)
		}
	}
}

// Test_Verify_Profiles runs each profile for some seconds.
func Test_Verify_Profiles(t *testing.T) {
	w := buildkittest.Start(t, nil)
	for _, profile := range []string{"instant", "ref", "dockerfile", "mixed"} {
		t.Run(profile, func(t *testing.T) {
			record := filepath.Join(t.TempDir(), "record")
			out, errOut, status := harness.CLI(t, w.GRPC, "verify", "--repository", w.Registry.Addr+"/library/"+profile, "--images", "4", "--base", w.Base, "--profile", profile,
				"--duration", "4s", "--rate", "5", "--readers", "1", "--record", record, "-o", "json")
			if status != 0 {
				t.Fatalf("status %d: %s %s", status, out, errOut)
			}
			r := verifyReport(t, out)
			if !r.OK || r.Counts.Acknowledged < 5 || r.Counts.Ends["succeeded"] == 0 || r.Counts.LogBytes == 0 {
				t.Errorf("%+v", r)
			}
			raw, err := os.ReadFile(record)
			if err != nil {
				t.Fatal(err)
			}
			for kind, profiles := range map[string]string{"Dockerfile/verify-": "dockerfile mixed", ":verify-1-": "instant mixed", ":verify-4-": "ref mixed"} {
				if got, want := bytes.Contains(raw, []byte(kind)), strings.Contains(profiles, profile); got != want {
					t.Errorf("builds of %q: %v, want %v", kind, got, want)
				}
			}
		})
	}
}
