package verify

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// tailInterval is how often a file of announcements is read for further lines.
const tailInterval = 100 * time.Millisecond

// announce records the begin or the end of a fault.
func (f *Faults) announce(name, state string, log *slog.Logger) error {
	switch {
	case name == "":
		return errors.New("name the fault")
	case state == "begin":
		f.Begin(name)
	case state != "end":
		return fmt.Errorf("state %q is unknown; use begin or end", state)
	case !f.End(name):
		return fmt.Errorf("fault %q has not begun", name)
	}
	log.Info("fault", "name", name, "state", state)
	return nil
}

// Listen receives announcements of faults over HTTP at a TCP address: POST /faults/begin?name=...
// and POST /faults/end?name=.... It does not block. stop closes the port.
func (f *Faults) Listen(address string, log *slog.Logger) (stop func(), err error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /faults/{state}", func(w http.ResponseWriter, r *http.Request) {
		if err := f.announce(r.FormValue("name"), r.PathValue("state"), log); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	log.Info("listening for announcements of faults", "url", "http://"+ln.Addr().String()+"/faults/begin?name=...")
	return func() { _ = srv.Close(); <-done }, nil
}

// Tail receives announcements of faults from lines {"name":"...","state":"begin"}, or "end", of a
// file, which it creates if it is missing. It does not block. It waits for further lines until stop
// is called. Wrong lines are logged.
func (f *Faults) Tail(path string, log *slog.Logger) (stop func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); defer file.Close(); f.tail(ctx, file, log) }()
	return func() { cancel(); <-done }, nil
}

func (f *Faults) tail(ctx context.Context, file io.Reader, log *slog.Logger) {
	r := bufio.NewReader(file)
	var line string
	tick := time.NewTicker(tailInterval)
	defer tick.Stop()
	for {
		text, err := r.ReadString('\n')
		line += text
		if err != nil { // the line is incomplete
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				continue
			}
		}
		var a struct{ Name, State string }
		if err = json.Unmarshal([]byte(line), &a); err == nil {
			err = f.announce(a.Name, a.State, log)
		}
		if err != nil {
			log.Warn("wrong announcement of a fault", "line", strings.TrimSpace(line), "error", err)
		}
		line = ""
	}
}
