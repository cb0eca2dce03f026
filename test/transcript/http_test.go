package transcript

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/image-builder-ha/image-builder/proto/supervisor"
)

// playDescriptors records what the node says about its services: all methods, messages, fields and
// their numbers, as the binary has them.
func (w *world) playDescriptors() {
	r := w.r
	r.section("descriptors of the APIs", true)
	stream, err := reflectionpb.NewServerReflectionClient(w.n.Conn).ServerReflectionInfo(w.ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	ask := func(req *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		w.t.Helper()
		if err := stream.Send(req); err != nil {
			w.t.Fatal(err)
		}
		res, err := stream.Recv()
		if err != nil {
			w.t.Fatal(err)
		}
		return res
	}
	list := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	files := map[string]*descriptorpb.FileDescriptorProto{}
	for _, s := range list.GetListServicesResponse().Service {
		r.line("service %s", s.Name)
		res := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: s.Name}})
		for _, raw := range res.GetFileDescriptorResponse().FileDescriptorProto {
			f := new(descriptorpb.FileDescriptorProto)
			if err := proto.Unmarshal(raw, f); err != nil {
				w.t.Fatal(err)
			}
			files[f.GetName()] = f
		}
	}
	_ = stream.CloseSend()
	var lines []string
	for _, f := range files {
		if strings.HasPrefix(f.GetPackage(), "google.") || strings.HasPrefix(f.GetPackage(), "grpc.") {
			continue
		}
		for _, s := range f.Service {
			for _, m := range s.Method {
				lines = append(lines, fmt.Sprintf("%s.%s/%s %s", f.GetPackage(), s.GetName(), m.GetName(), prototext.Format(m)))
			}
		}
		lines = append(lines, enums(f.GetPackage(), f.EnumType)...)
		lines = append(lines, fields(f.GetPackage(), f.MessageType)...)
	}
	slices.Sort(lines)
	for _, l := range lines {
		r.line("%s", spaces.ReplaceAllString(strings.Join(strings.Fields(l), " "), " "))
	}
}

func fields(scope string, all []*descriptorpb.DescriptorProto) (lines []string) {
	for _, m := range all {
		name := scope + "." + m.GetName()
		lines = append(lines, name)
		for _, f := range m.Field {
			lines = append(lines, fmt.Sprintf("%s.%s = %d %s %s %s %s", name, f.GetName(), f.GetNumber(), f.GetLabel(), f.GetType(), f.GetTypeName(), f.GetJsonName()))
		}
		lines = append(lines, enums(name, m.EnumType)...)
		lines = append(lines, fields(name, m.NestedType)...)
	}
	return lines
}

func enums(scope string, all []*descriptorpb.EnumDescriptorProto) (lines []string) {
	for _, e := range all {
		for _, v := range e.Value {
			lines = append(lines, fmt.Sprintf("%s.%s.%s = %d", scope, e.GetName(), v.GetName(), v.GetNumber()))
		}
	}
	return lines
}

// body is how a body is recorded.
type body int

const (
	exact  body = iota // byte for byte
	values             // JSON values, one or more
	text               // for people
	none
)

// fetch sends an HTTP request and records the response.
func (w *world) fetch(kind body, req *http.Request) []byte {
	w.t.Helper()
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if req.URL.Host == "socket" {
		client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(w.n.Dir, "op.sock"))
		}}
	}
	res, err := client.Do(req.WithContext(w.ctx))
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	r := w.r
	r.begin("%s %s", req.Method, r.replace(req.URL.RequestURI()))
	r.line("%d", res.StatusCode)
	for _, k := range slices.Sorted(maps.Keys(res.Header)) {
		v := strings.Join(res.Header[k], ", ")
		switch k {
		case "Date", "Content-Length":
			continue
		case "Etag":
			v = "etag"
		}
		r.line("%s: %s", k, r.replace(v))
	}
	switch kind {
	case exact:
		r.line("%q", r.replace(string(raw)))
	case text:
		r.text("body", string(raw))
	case values:
		for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
			if s := lines.Text(); s != "{}" { // the pulse of a stream
				r.json([]byte(s))
			}
		}
	}
	return raw
}

func request(method, url string, header map[string]string, body string) *http.Request {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		panic(err) // the address is part of the test
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	return req
}

// playHTTP sends the requests of probes, of the page and of readers of logs.
func (w *world) playHTTP() {
	w.settle()
	r := w.r
	r.section("HTTP: health", false)
	r.call("the service")(grpc_health_v1.NewHealthClient(w.n.Conn).Check(w.ctx, &grpc_health_v1.HealthCheckRequest{}))
	r.call("another service")(grpc_health_v1.NewHealthClient(w.n.Conn).Check(w.ctx, &grpc_health_v1.HealthCheckRequest{Service: "none"}))
	for _, path := range []string{"/live", "/ready", "/none"} {
		w.fetch(exact, request(http.MethodGet, "http://"+w.n.Health+path, nil, ""))
	}
	w.fetch(none, request(http.MethodGet, "http://"+w.n.Pprof+"/debug/pprof/", nil, ""))
	w.fetch(none, request(http.MethodGet, "http://"+w.n.Pprof+"/debug/pprof/goroutine?debug=1", nil, ""))

	w.fetch(none, request(http.MethodGet, "http://socket/debug/pprof/cmdline", nil, ""))
	w.fetch(none, request(http.MethodGet, "http://socket/none", nil, ""))

	r.section("HTTP: the page", false)
	page := func(kind body, path string, header map[string]string) {
		w.fetch(kind, request(http.MethodGet, "http://"+w.http+path, header, ""))
	}
	for _, path := range []string{"/", "/ui/", "/ui/page.js", "/ui/server.go"} {
		page(none, path, nil)
	}
	w.fetch(none, request(http.MethodPost, "http://"+w.http+"/ui/api/builds", nil, ""))
	build := "/ui/api/builds/" + w.logs
	for _, path := range []string{
		"/ui/api/config", "/ui/api/builds?size=2", "/ui/api/builds?phase=PHASE_QUEUED", "/ui/api/builds?requester=user-2", "/ui/api/builds?phase=queued", "/ui/api/builds?size=-1",
		build, "/ui/api/builds/none", "/ui/api/nodes", "/ui/api/cache", build + "/logs?attempt=1", build + "/logs?attempt=1&offset=5", build + "/logs?attempt=0", build + "/logs?attempt=x",
		"/ui/api/builds/none/logs?attempt=1", build + "/log.txt?attempt=x", "/ui/api/builds/none/log.txt?attempt=1",
	} {
		page(values, path, nil)
	}
	page(exact, build+"/log.txt?attempt=1", nil)
	page(text, build, map[string]string{"Origin": "https://evil.example.com"})
	page(text, build, map[string]string{"Sec-Fetch-Site": "cross-site"})
	page(none, build, map[string]string{"Origin": public})

	r.section("HTTP: logs for Gitpod", true)
	token := map[string]string{"X-Gitpod-Owner-Token": w.info.Headers["x-gitpod-owner-token"]}
	base := strings.TrimPrefix(w.info.Url, public)
	for _, root := range []string{base, ""} {
		for _, path := range []string{"/_supervisor/v1/status/tasks", "/_supervisor/v1/terminal/listen/build", "/_supervisor/v1/task/listen/build/output"} {
			page(values, root+path, token)
			page(exact, root+path, nil)
			page(exact, root+path, map[string]string{"X-Gitpod-Owner-Token": "wrong"})
		}
	}
	page(exact, base+"/_supervisor/v1/terminal/listen/other", token)
	page(exact, "/builds/none/_supervisor/v1/status/tasks", token)
	page(exact, base+"/none", token)
	for _, c := range []struct {
		method   string
		req, res proto.Message
	}{
		{"StatusService/TasksStatus", &supervisor.TasksStatusRequest{}, &supervisor.TasksStatusResponse{}},
		{"StatusService/TasksStatus", &supervisor.TasksStatusRequest{Observe: true}, &supervisor.TasksStatusResponse{}},
		{"TaskService/ListenToOutput", &supervisor.ListenToOutputRequest{TaskId: "build"}, &supervisor.ListenToOutputResponse{}},
		{"TaskService/ListenToOutput", &supervisor.ListenToOutputRequest{TaskId: "other"}, &supervisor.ListenToOutputResponse{}},
	} {
		w.grpcWeb(base+"/_supervisor/v1/supervisor."+c.method, token, c.req, c.res)
	}
	url := base + "/_supervisor/v1/supervisor.StatusService/TasksStatus"
	w.grpcWeb(url, nil, &supervisor.TasksStatusRequest{}, &supervisor.TasksStatusResponse{})
	w.fetch(exact, request(http.MethodPost, "http://"+w.http+url, token, ""))
	w.fetch(exact, request(http.MethodPost, "http://"+w.http+url, map[string]string{"Content-Type": "application/grpc-web+proto", "X-Gitpod-Owner-Token": w.info.Headers["x-gitpod-owner-token"]}, "no frame"))
}

// playNotifications sends notifications of a registry. They are among the last steps: the
// references that they name are refreshed at once and again later.
func (w *world) playNotifications() {
	w.r.section("HTTP: notifications of registries", false)
	notify := func(token, body string) {
		w.fetch(text, request(http.MethodPost, "http://"+w.http+"/v1/registry/notifications", map[string]string{"Authorization": "Bearer " + token}, body))
	}
	notify("wrong", "{}")
	notify(w.notes, "no JSON")
	notify(w.notes, `{"events": [{"action": "push", "target": {"repository": "team/other", "tag": "1"}}]}`)
	notify(w.notes, `{"events": [{"action": "push", "target": {"repository": "team/app", "tag": "1"}}]}`)
}

// grpcWeb calls a method by grpc-web and records messages and trailers.
func (w *world) grpcWeb(path string, header map[string]string, req, res proto.Message) {
	raw, err := proto.Marshal(req)
	if err != nil {
		w.t.Fatal(err)
	}
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...)
	header = maps.Clone(header)
	if header == nil {
		header = map[string]string{}
	}
	header["Content-Type"] = "application/grpc-web+proto"
	rest := w.fetch(none, request(http.MethodPost, "http://"+w.http+path, header, string(frame)))
	for len(rest) >= 5 {
		kind, size := rest[0], int(binary.BigEndian.Uint32(rest[1:5]))
		content := rest[5 : 5+size]
		rest = rest[5+size:]
		if kind != 0 {
			w.r.line("%q", content)
			continue
		}
		if err := proto.Unmarshal(content, res); err != nil {
			w.t.Fatal(err)
		}
		w.r.message(res)
	}
}

var (
	metricHelp = regexp.MustCompile(`^# HELP (\S+) (.*)$`)
	metricType = regexp.MustCompile(`^# TYPE (\S+) (\S+)$`)
	metricLine = regexp.MustCompile(`^([a-zA-Z_:]+)(?:\{(.*)\})? \S+$`)
	foreign    = regexp.MustCompile(`^(go|process)_`)
	metricPair = regexp.MustCompile(`([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"`)
)

// openLabels are labels whose values depend on the run, or are without end.
var openLabels = []string{"version", "le", "host", "code", "grpc_code", "grpc_method", "grpc_service"}

// playMetrics records name, type and labels of the node's metrics, but for those of Go and the
// process, which come from a library.
func (w *world) playMetrics() {
	w.r.section("HTTP: metrics", false)
	raw, code := w.n.Get("http://" + w.n.Metrics + "/metrics")
	if code != http.StatusOK {
		w.t.Fatal(code)
	}
	labels := map[string]map[string]bool{} // by metric
	name := ""
	for _, line := range strings.Split(raw, "\n") {
		if m := metricHelp.FindStringSubmatch(line); m != nil {
			name = m[1]
			if w.r.step = "metric"; !foreign.MatchString(name) {
				w.r.text(name, m[2])
			}
		} else if m := metricType.FindStringSubmatch(line); m != nil {
			name = m[1] + " " + m[2]
			labels[name] = map[string]bool{}
		} else if m := metricLine.FindStringSubmatch(line); m != nil {
			for _, pair := range metricPair.FindAllStringSubmatch(m[2], -1) {
				value := w.r.replace(pair[2])
				if slices.Contains(openLabels, pair[1]) {
					value = "..."
				}
				labels[name][pair[1]+"="+value] = true
			}
		}
	}
	w.r.begin("GET /metrics")
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if !foreign.MatchString(name) {
			w.r.line("%s", strings.Join(append([]string{name}, slices.Sorted(maps.Keys(labels[name]))...), "\n "))
		}
	}
}
