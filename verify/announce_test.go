package verify

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// linesOf sends the lines of a JSON log.
type linesOf chan map[string]string

func (l linesOf) Write(p []byte) (int, error) {
	var line map[string]string
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	l <- line
	return len(p), nil
}

// next waits for a line with that message and returns it.
func (l linesOf) next(t *testing.T, msg string) map[string]string {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		select {
		case line := <-l:
			if line["msg"] == msg {
				return line
			}
		case <-limit.C:
			t.Fatalf("%q was not logged", msg)
		}
	}
}

// receive starts one of the receivers until the test ends.
func receive(t *testing.T, start func(f *Faults, log *slog.Logger) (func(), error)) (*Faults, linesOf) {
	t.Helper()
	lines, faults := make(linesOf, 100), &Faults{}
	stop, err := start(faults, slog.New(slog.NewJSONHandler(lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return faults, lines
}

func wantFault(t *testing.T, faults *Faults, name string, ended bool) {
	t.Helper()
	all := faults.All()
	if len(all) != 1 || all[0].Name != name || all[0].Ended.IsZero() == ended {
		t.Errorf("faults %+v, want one %q, ended %v", all, name, ended)
	}
}

// Test_Faults_Listen announces faults over HTTP, some of them wrongly.
func Test_Faults_Listen(t *testing.T) {
	faults, lines := receive(t, func(f *Faults, log *slog.Logger) (func(), error) { return f.Listen("127.0.0.1:0", log) })
	base := strings.TrimSuffix(lines.next(t, "listening for announcements of faults")["url"], "/faults/begin?name=...")
	post := func(method, path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(text)
	}
	for _, c := range []struct {
		method, path string
		status       int
		text         string
	}{
		{http.MethodPost, "/faults/end?name=kill", http.StatusBadRequest, `fault "kill" has not begun`},
		{http.MethodPost, "/faults/begin", http.StatusBadRequest, "name the fault"},
		{http.MethodPost, "/faults/middle?name=kill", http.StatusBadRequest, `state "middle" is unknown; use begin or end`},
		{http.MethodGet, "/faults/begin?name=kill", http.StatusMethodNotAllowed, ""},
		{http.MethodPost, "/faults/begin?name=kill", http.StatusOK, ""},
	} {
		if status, text := post(c.method, c.path); status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, status, text, c.status, c.text)
		}
	}
	wantFault(t, faults, "kill", false)
	if status, text := post(http.MethodPost, "/faults/end?name=kill"); status != http.StatusOK {
		t.Errorf("end: %d %s", status, text)
	}
	wantFault(t, faults, "kill", true)
}

// Test_Faults_Tail announces faults in a file, in lines that are written in parts. Wrong lines
// are logged and skipped.
func Test_Faults_Tail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "faults")
	faults, lines := receive(t, func(f *Faults, log *slog.Logger) (func(), error) { return f.Tail(path, log) })
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write := func(text string) {
		t.Helper()
		if _, err := fmt.Fprint(f, text); err != nil {
			t.Fatal(err)
		}
	}
	write("no JSON\n")
	if line := lines.next(t, "wrong announcement of a fault"); line["line"] != "no JSON" {
		t.Errorf("%v", line)
	}
	write(`{"name":"pause",`)
	write(`"state":"begin"}` + "\n")
	if line := lines.next(t, "fault"); line["name"] != "pause" || line["state"] != "begin" {
		t.Errorf("%v", line)
	}
	wantFault(t, faults, "pause", false)
	write(`{"name":"another","state":"end"}` + "\n")
	if line := lines.next(t, "wrong announcement of a fault"); line["error"] != `fault "another" has not begun` {
		t.Errorf("%v", line)
	}
	write(`{"name":"pause","state":"end"}` + "\n")
	lines.next(t, "fault")
	wantFault(t, faults, "pause", true)
}

// Test_Faults_CannotReceive checks an address and files that cannot be used.
func Test_Faults_CannotReceive(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	if _, err := new(Faults).Listen("nowhere", log); err == nil {
		t.Error("listening at a wrong address: no error")
	}
	for _, path := range []string{t.TempDir(), filepath.Join(t.TempDir(), "no", "file")} {
		if _, err := new(Faults).Tail(path, log); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}
