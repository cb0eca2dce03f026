package transcript

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// transcript records steps in two files. Values that differ between runs become placeholders.
type transcript struct {
	t           *testing.T
	wire, texts strings.Builder
	fixed       *strings.Replacer // addresses and directories
	ids         map[string]string
	// gitpod: messages for people are part of the wire.
	gitpod bool
	step   string
}

func newTranscript(t *testing.T, fixed map[string]string) *transcript {
	var pairs []string
	for _, k := range slices.SortedFunc(maps.Keys(fixed), func(a, b string) int { return len(b) - len(a) }) {
		pairs = append(pairs, k, fixed[k])
	}
	return &transcript{t: t, fixed: strings.NewReplacer(pairs...), ids: map[string]string{}}
}

// section begins a part of both files.
func (r *transcript) section(title string, gitpod bool) {
	r.gitpod = gitpod
	for _, b := range []*strings.Builder{&r.wire, &r.texts} {
		fmt.Fprintf(b, "\n######## %s\n", title)
	}
}

// begin begins a step of the wire.
func (r *transcript) begin(format string, args ...any) {
	r.step = fmt.Sprintf(format, args...)
	fmt.Fprintf(&r.wire, "\n== %s\n", r.step)
}

func (r *transcript) line(format string, args ...any) { fmt.Fprintf(&r.wire, format+"\n", args...) }

// text records a text of the current step for people.
func (r *transcript) text(key, s string) {
	s = r.replace(strings.TrimRight(s, "\n"))
	if strings.Contains(s, "\n") {
		s = "\n  | " + strings.ReplaceAll(s, "\n", "\n  | ")
	}
	line := fmt.Sprintf("%s: %s: %s\n", r.step, key, s)
	if !strings.HasSuffix(r.texts.String(), line) { // as in messages that repeat one
		r.texts.WriteString(line)
	}
}

// call returns a function that records the result of a call.
func (r *transcript) call(step string) func(proto.Message, error) {
	return func(res proto.Message, err error) {
		method := strings.TrimSuffix(string(res.ProtoReflect().Descriptor().Name()), "Response")
		r.begin("%s: %s", method, step)
		r.end(err)
		if err == nil {
			r.message(res)
		}
	}
}

// stream returns a function that records all messages of a stream, and how it ended.
func (r *transcript) stream(method, step string) func([]proto.Message, error) {
	return func(all []proto.Message, err error) {
		r.begin("%s: %s", method, step)
		for _, m := range all {
			r.message(m)
		}
		r.end(err)
	}
}

// drain reads a stream to its end.
func drain[T any, M interface {
	*T
	proto.Message
}](stream grpc.ServerStreamingClient[T], err error) (all []proto.Message, _ error) {
	for err == nil {
		var m *T
		if m, err = stream.Recv(); err == nil {
			all = append(all, M(m))
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return all, err
}

// end records code and message of an error.
func (r *transcript) end(err error) {
	st := status.Convert(err)
	r.line("%s", st.Code())
	for _, d := range st.Proto().GetDetails() {
		r.line("detail %s", d.MessageName())
	}
	switch {
	case err == nil:
	case r.gitpod:
		r.line("%s", r.replace(st.Message()))
	default:
		r.text(st.Code().String(), st.Message())
	}
}

func (r *transcript) message(m proto.Message) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	r.json(raw)
	if n := len(m.ProtoReflect().GetUnknown()); n > 0 {
		r.line("%d bytes of unknown fields", n)
	}
}

// json records JSON with sorted keys and placeholders.
func (r *transcript) json(raw []byte) {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		r.line("not JSON: %q", r.replace(string(raw)))
		return
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(r.value("", v)); err != nil {
		r.t.Fatal(err)
	}
	r.wire.Write(out.Bytes())
}

// Keys of values that differ between runs.
var (
	indexes   = []string{"index", "version", "appliedIndex", "term", "turn"}
	durations = []string{"staleness", "lastContact", "silent", "clockSkew"}
	times     = []string{"startedAt"} // where it is a number, in Gitpod's API
	tokens    = []string{"x-gitpod-owner-token"}
	ids       = []string{"storeId", "ownerStoreId", "clusterId", "serverId"} // beside all UUIDs
)

// Phases that pass quickly may share one change of a build. Whether the history of an attempt that
// has ended shows them depends on the moment.
var brief = []any{"PHASE_STARTING", "PHASE_RUNNING", "PHASE_PUSHING"}

// passing are keys whose value depends on the moment, and that are not there at zero.
var passing = []string{"trailsBy", "ownedBuilds", "runningBuilds"}

// messages are keys of texts for people.
var messages = []string{"message", "waitingReason", "lastError", "trouble", "error"}

// value replaces what differs between runs, and in the native API texts for people.
func (r *transcript) value(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range passing {
			delete(v, k)
		}
		if v["phase"] == "PHASE_FAILED" { // a workload that fails at once may not be recorded
			delete(v, "workloadCreated")
		}
		if v["history"] != nil && v["endedAt"] != nil {
			v["history"] = slices.DeleteFunc(v["history"].([]any), func(h any) bool { return slices.Contains(brief, h.(map[string]any)["phase"]) })
		}
		// The service itself writes the log of a copy, and the last line of an attempt that failed.
		if l, ok := v["log"].(map[string]any); ok && (v["runtime"] == "copy" || v["phase"] != "PHASE_SUCCEEDED") {
			for _, k := range []string{"length", "checksum"} {
				if l[k] != nil {
					l[k] = k
				}
			}
		}
		for _, k := range slices.Sorted(maps.Keys(v)) { // ids are numbered in this order
			v[k] = r.value(k, v[k])
		}
		return v
	case []any:
		for i := range v {
			v[i] = r.value(key, v[i])
		}
		return v
	case string:
		return r.stringValue(key, v)
	}
	if key == "featureLevel" {
		return "level"
	}
	return v
}

func (r *transcript) stringValue(key, s string) string {
	switch {
	case s == "":
		return s
	case slices.Contains(indexes, key):
		return "number"
	case slices.Contains(durations, key):
		return "duration"
	case slices.Contains(tokens, key):
		return "token"
	case slices.Contains(ids, key):
		host, id, ok := strings.Cut(s, "/")
		if ok {
			return host + "/" + r.id(id)
		}
		return r.id(s)
	case slices.Contains(messages, key) && !r.gitpod:
		r.text(key, s)
		return "text"
	case slices.Contains(times, key):
		return "time"
	}
	if _, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return "time"
	}
	return r.replace(s)
}

var (
	uuids  = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	stamps = regexp.MustCompile(`[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9:.]{8,}Z`)
	again  = regexp.MustCompile(`(again in|for another) [0-9.ms]+`)
	temps  = regexp.MustCompile(regexp.QuoteMeta(os.TempDir()) + `/[^\s:,;"']+`)
	levels = regexp.MustCompile(`(feature level )[0-9]+`)
	spaces = regexp.MustCompile(` {2,}`)
	stores = regexp.MustCompile(`\b[0-9a-f]{16}\b`)
	sizes  = regexp.MustCompile(`[0-9]+ bytes`)
	counts = regexp.MustCompile(`  [0-9]+  `)
	// shortly are phases that an attempt may pass unseen, see brief.
	shortly = regexp.MustCompile(`(starting|running|pushing) \+DURATION, `)
	spans   = regexp.MustCompile(`\b[0-9]+(\.[0-9]+)?(ms|µs|s)\b`)
)

// replace puts placeholders for ids and addresses into a text.
func (r *transcript) replace(s string) string {
	s = levels.ReplaceAllString(stamps.ReplaceAllString(r.fixed.Replace(s), "TIME"), "${1}LEVEL")
	return temps.ReplaceAllString(again.ReplaceAllString(uuids.ReplaceAllStringFunc(s, r.id), "$1 DURATION"), "TEMP")
}

// id returns the placeholder of an id.
func (r *transcript) id(id string) string {
	if r.ids[id] == "" {
		r.ids[id] = fmt.Sprintf("id-%d", len(r.ids)+1)
	}
	return r.ids[id]
}

// table replaces the cells of a table that differ between runs, and the padding of its columns.
func (r *transcript) table(s string) string {
	s = shortly.ReplaceAllString(spans.ReplaceAllString(s, "DURATION"), "")
	s = stores.ReplaceAllStringFunc(spaces.ReplaceAllString(s, "  "), r.id)
	return sizes.ReplaceAllString(counts.ReplaceAllString(s, "  NUMBER  "), "NUMBER bytes")
}

// golden compares a record with its file, or writes the file.
func golden(t *testing.T, name, got string, write bool) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if write {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		cmd := exec.Command("diff", "-u", path, "-")
		cmd.Stdin = strings.NewReader(got)
		diff, _ := cmd.CombinedOutput() // status 1 says that they differ
		t.Errorf("%s differs. If that is right, refresh it with\n\t%s\n%.30000s", name, refresh[name], diff)
	}
}

// refresh are the commands that write the files in testdata, in the root of the module.
var refresh = map[string]string{
	"strings.golden": "go test ./test/transcript -run Test_Strings -update",
	"texts.golden":   "go test ./test/transcript -run Test_Transcript -update",
	"wire.golden":    "go build -o bin/image-builder ./cmd/image-builder && go test ./test/transcript -run Test_Transcript -update -program $PWD/bin/image-builder",
}
