//go:build kubernetes

package kubelet_test

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/kubelet"
)

// metadata is the address of the metadata service of clouds, which returns credentials.
const metadata = "169.254.169.254"

// probes is the script of a hostile Dockerfile. It even gets the token of the proxy, from the URL
// HELP. A real build never gets this token.
const probes = `
say() { echo "probe $1: $2"; }
proxy() { # METHOD PATH [TOKEN]
	{ printf '%s %s HTTP/1.0\r\nHost: x\r\nAuthorization: Basic %s\r\nContent-Length: 0\r\n\r\n' "$1" "$2" "$3"; sleep 2; } | nc -w 10 127.0.0.1 5000 | head -n 1
}
port() { { printf 'GET / HTTP/1.0\r\n\r\n'; sleep 1; } | nc -w 3 "$1" "$2" | strings | head -n 3 | tr '\n' ' '; }
TOKEN=$(wget -q -O- HELP/token)
REG=HOST__PORT

say env "$(env | tr '\n' ' ')"
say processes "$(cat /proc/[0-9]*/cmdline | tr '\0' ' ')"
say environments "$(cat /proc/[0-9]*/environ | tr '\0' ' ')"
say files "$(find / -xdev -name proxy.json -o -xdev -name job.json -o -xdev -name buildkitd.sock -o -xdev -name serviceaccount | tr '\n' ' ')."
say roots "$(ls /proc/[0-9]*/root/run/image-builder 2>&1 | grep -c json)"

say control "$(proxy GET /v2/ $TOKEN)"
say base "$(proxy GET /v2/pull/$REG/library/busybox/manifests/1 $TOKEN)"
say upload "$(proxy POST /v2/push/$REG/base-images/blobs/uploads/ $TOKEN)"
say no-token "$(proxy GET /v2/ nothing)"
say other-repository "$(proxy POST /v2/push/$REG/other/blobs/uploads/ $TOKEN)"
say workspace-repository "$(proxy POST /v2/push/$REG/workspace-images/blobs/uploads/ $TOKEN)"
say other-tag "$(proxy PUT /v2/push/$REG/base-images/manifests/mine $TOKEN)"
say delete "$(proxy DELETE /v2/pull/$REG/library/busybox/manifests/DIGEST $TOKEN)"
say delete-pushed "$(proxy DELETE /v2/push/$REG/base-images/manifests/DIGEST $TOKEN)"
say catalog "$(proxy GET /v2/_catalog $TOKEN)"
say tags "$(proxy GET /v2/pull/$REG/library/busybox/tags/list $TOKEN)"

say peer "$(port PEER 7800)"
say worker "$(port 127.0.0.1 8443)"
say service "$(nc -w 3 PEER 8080 < /dev/null > /dev/null 2>&1 && echo reached)"
say api "$(nc -w 3 API 443 < /dev/null > /dev/null 2>&1 && echo reached)"
say metadata "$(wget -q -O - http://METADATA/ 2>&1 || echo failed)"
`

// Test_Kubelet_Isolation runs a hostile build, with positive controls. The build finds no
// credentials, and the proxy allows it only the requests that one build needs.
//
// Only a NetworkPolicy can block connections to the metadata address, to the port of the Kubernetes
// API and to the ports of the service. This cluster does not enforce policies, so the build reaches
// the metadata and the API of the service, as the controls show. The other ports require a
// certificate or an account, which the pod does not have.
func Test_Kubelet_Isolation(t *testing.T) {
	s := newInstall(t, installOptions{over: harness.Config{"kubernetes": map[string]any{"cacheWrite": false}}})
	if out, err := exec.Command("ip", "addr", "add", metadata+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("ip", "addr", "del", metadata+"/32", "dev", "lo").Run() })
	serveAt(t, metadata+":80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "the-metadata") }))
	var id, token string
	known := make(chan struct{})
	help := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-known
		x, err := kube.Client.CoreV1().Secrets(s.namespace).Get(r.Context(), "ib-"+id+"-1", metav1.GetOptions{})
		var job struct {
			ProxyToken string `json:"proxyToken"`
		}
		if err == nil {
			err = json.Unmarshal(x.Data["job.json"], &job)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		token = job.ProxyToken
		_, _ = fmt.Fprint(w, base64.StdEncoding.EncodeToString([]byte("build:"+token)))
	}))
	host, port, _ := strings.Cut(s.reg.Addr, ":")
	repo := newGitRepo(t, "")
	repo.Commit(map[string]string{
		"Dockerfile": "FROM " + s.base + "\nCOPY probes.sh /probes.sh\nRUN sh /probes.sh\n",
		"probes.sh": strings.NewReplacer("HELP", help, "HOST", host, "PORT", port, "DIGEST", s.reg.Digest(t, "library/busybox:1"),
			"PEER", kubelet.HostAddresses[0], "API", kubelet.APIAddress, "METADATA", metadata).Replace(probes),
	})
	id = s.request(s.Nodes[0], &imagebuilderv1.BuildImageRequest{RequestId: "isolation", Requester: "test", Source: gitSource(repo.URL, nil)})
	close(known)
	s.succeeded(s.Nodes[0], id)
	log := s.log(s.Nodes[1], id)
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^#\d+ [0-9.]+ probe ([a-z-]+): (.*)$`).FindAllStringSubmatch(log, -1) {
		got[m[1]] = m[2]
		t.Logf("%s: %s", m[1], m[2])
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(log)
		}
	})
	if token == "" {
		t.Fatal("the build did not fetch the token: the probes prove nothing")
	}
	for probe, want := range map[string]string{
		// Controls.
		"control": " 200 ", "base": " 200 ", "upload": " 202 ", "env": "PATH=", "processes": "probes.sh", "environments": "PATH=", "metadata": "the-metadata", "service": "reached", "api": "reached",
		// Refused requests.
		"no-token": " 401 ", "other-repository": " 403 ", "workspace-repository": " 403 ", "other-tag": " 403 ",
		"delete": " 403 ", "delete-pushed": " 403 ", "catalog": " 403 ", "tags": " 403 ", "files": "^.$", "roots": "^0$", "peer": "^$",
		"worker": "HTTPS server",
	} {
		v, ok := got[probe]
		if exact, is := strings.CutPrefix(want, "^"); is {
			ok = ok && strings.TrimSpace(v) == strings.TrimSuffix(exact, "$")
		} else {
			ok = ok && strings.Contains(v+" ", want)
		}
		if !ok {
			t.Errorf("probe %s: %q, want %q", probe, v, want)
		}
	}
	for _, probe := range []string{"env", "processes", "environments"} {
		for _, word := range []string{token, "KUBERNETES_", "registry-proxy", "image-builder", "buildkitd"} {
			if strings.Contains(got[probe], word) {
				t.Errorf("probe %s shows %q: %s", probe, word, got[probe])
			}
		}
	}
	// The Kubernetes API refuses a client without credentials, such as the build.
	anonymous := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	res, err := anonymous.Get("https://" + kubelet.APIAddress + "/api/v1/namespaces/" + s.namespace + "/secrets")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("the API returns %s for a request without an account", res.Status)
	}
	s.tidy()
}
