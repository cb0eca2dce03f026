package config

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// load loads files with these texts.
func load(t *testing.T, texts ...string) (Config, []string, error) {
	t.Helper()
	var paths []string
	for i, text := range texts {
		p := filepath.Join(t.TempDir(), "config"+string(rune('0'+i)))
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return Load(paths)
}

// gitpodConfig has every key of Gitpod's configuration file.
const gitpodConfig = `{
 "$schema": "x",
 "orchestrator": {
  "wsman": {"address": "ws-manager:8080", "tls": {"ca": "/ca", "crt": "/crt", "key": "/key"}},
  "pullSecret": "pull", "pullSecretFile": "/config/pull.json",
  "baseImageRepository": "registry.example.com/base-images", "workspaceImageRepository": "registry.example.com/workspace-images",
  "builderImage": "bob:1", "enableAdditionalECRAuth": true, "subassemblyBucketName": "b", "subassemblyBucketPrefix": "p"
 },
 "refCache": {"interval": "6h0m0s", "refs": ["docker.io/gitpod/workspace-full:latest"]},
 "server": {"services": {"grpc": {"address": ":8080", "tls": {"caPath": "/ca", "certPath": "/crt", "keyPath": "/key"}}, "http": {"address": ":1"}}}
}`

func Test_Config_GitpodsFileIsAccepted(t *testing.T) {
	cfg, warnings, err := load(t, gitpodConfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Complete()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if cfg.Orchestrator.WSManager.TLS.Cert != "/crt" || time.Duration(cfg.RefCache.Interval) != 6*time.Hour || len(cfg.RefCache.Refs) != 1 || cfg.Server.Services.GRPC.TLS.KeyPath != "/key" {
		t.Errorf("got %+v", cfg)
	}
	for _, key := range []string{
		"$schema", "server.services.http", "orchestrator.subassemblyBucketName", "orchestrator.subassemblyBucketPrefix",
	} {
		if n := slices.IndexFunc(warnings, func(w string) bool { return strings.HasPrefix(w, "config key "+key+" has no effect") }); n < 0 {
			t.Errorf("no warning about %s in %q", key, warnings)
		}
	}
	if len(warnings) != 4 {
		t.Errorf("got warnings %q, want one for each of the 4 keys without effect", warnings)
	}
	if _, twice, err := load(t, gitpodConfig, gitpodConfig); err != nil || len(twice) != 4 {
		t.Errorf("the same file twice: %q, %v", twice, err)
	}
}

// Test_Config_OneDocument refuses files with a second document, and does not quote it.
func Test_Config_OneDocument(t *testing.T) {
	for text, ok := range map[string]bool{
		"name: a\n":                      true,
		"---\nname: a\n":                 true,
		"---\nname: a\n---\n":            true,
		"---\nname: a\n...\n# the end\n": true,
		"name: a\n---\nname: b\n":        false,
		"---\n---\nname: b\n":            false,
		"name: a\n---\n- hunter2\n":      false,
	} {
		_, _, err := load(t, text)
		if (err == nil) != ok || err != nil && (!strings.Contains(err.Error(), "second YAML document") || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func Test_Config_LaterFilesWin(t *testing.T) {
	cfg, _, err := load(t, gitpodConfig, "dataDir: /elsewhere\nbuilds:\n  attempts: 5\n")
	if err != nil || cfg.DataDir != "/elsewhere" || cfg.Builds.Attempts != 5 || cfg.Builds.UncountedAttempts != 10 || cfg.Orchestrator.PullSecret != "pull" {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

func Test_Config_Errors(t *testing.T) {
	for text, want := range map[string]string{
		`{"orchestrator": {"baseImageRepo": "x"}}`: `unknown key "orchestrator.baseImageRepo"; did you mean "orchestrator.baseImageRepository"?`,
		"metricsAdress: ':1'":                      `did you mean "metricsAddress"?`,
		"zzz: 1":                                   `unknown key "zzz"`,
		"builds: 3":                                "builds: must be an object",
		"builds: {attempts: many}":                 "builds.attempts: must be a whole number",
		"builds: {attempts: 1.5}":                  "builds.attempts: must be a whole number",
		"builds: {timeout: 5}":                     "builds.timeout: must be a string",
		"builds: {timeout: hunter2-secret}":        "builds.timeout: is not a duration",
		"refCache: {refs: x}":                      "refCache.refs: must be a list of strings",
		"refCache: {refs: [1]}":                    "refCache.refs: must be a list of strings",
		"registry: {allowLoopback: 'yes'}":         "registry.allowLoopback: must be true or false",
		"name: a\nname: b":                         "repeats a key",
		"name: *hunter2":                           "neither JSON nor YAML",
		"{":                                        "neither JSON nor YAML",
		"- a":                                      "the file: must be an object",
	} {
		_, _, err := load(t, text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, _, err := Load([]string{"/nowhere"}); err == nil {
		t.Error("a missing file was accepted")
	}
}

func Test_Config_ValidateNamesEveryKey(t *testing.T) {
	cfg := Default()
	cfg.Complete()
	cfg.Orchestrator.BaseImageRepository = "registry.example.com/x:tag"
	cfg.PprofAddress, cfg.MetricsAddress = "0.0.0.0:6060", "nonsense"
	cfg.Builds.Attempts, cfg.Builds.QueuedPerRequester, cfg.Log.Level = 0, -1, "loud"
	cfg.Server.Services.GRPC.TLS.CertPath = "/crt"
	err := cfg.Validate()
	for _, key := range []string{"orchestrator.baseImageRepository", "orchestrator.workspaceImageRepository", "pprofAddress", "metricsAddress", "builds.attempts", "builds.queuedPerRequester", "log.level", "server.services.grpc.tls"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
}

func Test_Config_Prewarm(t *testing.T) {
	const daemon = `, "buildkit": {"addresses": ["unix:///run/buildkit/buildkitd.sock"]}}`
	for over, want := range map[string]string{
		`{}`:                                 "",
		`{"refCache": {"prewarm": "never"}}`: "",
		`{"refCache": {"prewarm": "changed"}` + daemon: "",
		`{"refCache": {"prewarm": "changed"}}`:         "refCache.prewarm: needs buildkit.addresses",
		`{"refCache": {"prewarm": "always"}` + daemon:  `refCache.prewarm: "always" is unknown; write never or changed`,
		`{"refCache": {"prewarm": ""}}`:                `refCache.prewarm: "" is unknown`,
	} {
		cfg, _, err := load(t, gitpodConfig, over)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Complete()
		if err := cfg.Validate(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", over, err, want)
		}
	}
}

// Test_Config_PrintedDefaultsAreTheDefaults loads the output of `config`.
func Test_Config_PrintedDefaultsAreTheDefaults(t *testing.T) {
	var out strings.Builder
	WriteDefaults(&out)
	cfg, warnings, err := load(t, out.String())
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	a, _ := json.Marshal(cfg)
	b, _ := json.Marshal(Default())
	if string(a) != string(b) {
		t.Errorf("printed:\n%s\ndefault:\n%s", a, b)
	}
}

// Test_Config_EveryKeyIsDocumented checks that each key has a doc tag of whole sentences, which is
// printed in one line.
func Test_Config_EveryKeyIsDocumented(t *testing.T) {
	var walk func(path string, s reflect.Type)
	walk = func(path string, s reflect.Type) {
		for i := range s.NumField() {
			f := s.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			key, doc := path+name, f.Tag.Get("doc")
			if name == "" || !strings.HasSuffix(doc, ".") || strings.Contains(doc, "\n") {
				t.Errorf("%s has the doc tag %q", key, doc)
			}
			switch {
			case f.Type.Kind() == reflect.Struct:
				walk(key+".", f.Type)
			case f.Type.Kind() == reflect.Map && f.Type.Elem().Kind() == reflect.Struct:
				walk(key+".NAME.", f.Type.Elem())
			}
		}
	}
	walk("", reflect.TypeFor[Config]())
}

func Test_Config_SchemaIsJSON(t *testing.T) {
	var out strings.Builder
	if err := WriteSchema(&out); err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Properties map[string]any
		Extra      bool `json:"additionalProperties"`
	}
	if err := json.Unmarshal([]byte(out.String()), &schema); err != nil || schema.Extra || schema.Properties["orchestrator"] == nil {
		t.Errorf("%v: %.200s", err, out.String())
	}
	age := schema.Properties["buildkit"].(map[string]any)["properties"].(map[string]any)["contextAge"].(map[string]any)
	if age["default"] != "24h0m0s" {
		t.Errorf("the schema lacks the default: %v", age)
	}
	if _, err := yaml.YAMLToJSON([]byte(out.String())); err != nil {
		t.Error(err)
	}
}

// Test_Config_LogPort checks the default of http.address: a node with a ws-manager has a port for
// log clients, which can be turned off, and other nodes have none.
func Test_Config_LogPort(t *testing.T) {
	for over, want := range map[string]string{`{}`: ":8081", `{"http": {"address": "none"}}`: "", `{"http": {"address": ":1"}}`: ":1"} {
		cfg, _, err := load(t, gitpodConfig, over)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Complete()
		if err := cfg.Validate(); err != nil || cfg.HTTP.Listens() != want || want != "" && !strings.HasSuffix(cfg.HTTP.PublicURL, want) {
			t.Errorf("%s: listens at %q, public %q, %v", over, cfg.HTTP.Listens(), cfg.HTTP.PublicURL, err)
		}
	}
	cfg := Default()
	if cfg.Complete(); cfg.HTTP.Listens() != "" {
		t.Errorf("a node without ws-manager listens at %q", cfg.HTTP.Listens())
	}
}
