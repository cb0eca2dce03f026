package main

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

	"github.com/image-builder-ha/image-builder/verify"
)

// receiveFaults records announced faults until ctx ends. stop waits for the end.
func (v *verifyFlags) receiveFaults(ctx context.Context, faults *verify.Faults, log *slog.Logger) (stop func(), err error) {
	record := func(name, state string) error {
		switch {
		case name == "":
			return errors.New("name the fault")
		case state == "begin":
			faults.Begin(name)
		case state != "end":
			return fmt.Errorf("state %q is unknown; use begin or end", state)
		case !faults.End(name):
			return fmt.Errorf("fault %q has not begun", name)
		}
		log.Info("fault", "name", name, "state", state)
		return nil
	}
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	if v.faultListen != "" {
		ln, err := net.Listen("tcp", v.faultListen)
		if err != nil {
			return nil, fmt.Errorf("--fault-listen: %w", err)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("POST /faults/{state}", func(w http.ResponseWriter, r *http.Request) {
			if err := record(r.FormValue("name"), r.PathValue("state")); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		})
		srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
		done := make(chan struct{})
		go func() { defer close(done); _ = srv.Serve(ln) }()
		stops = append(stops, func() { _ = srv.Close(); <-done })
		log.Info("listening for announcements of faults", "url", "http://"+ln.Addr().String()+"/faults/begin?name=...")
	}
	if v.faultFile != "" {
		f, err := os.OpenFile(v.faultFile, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			stop()
			return nil, fmt.Errorf("--fault-file: %w", err)
		}
		done := make(chan struct{})
		go func() { defer close(done); defer f.Close(); tailFaults(ctx, f, record, log) }()
		stops = append(stops, func() { <-done })
	}
	return stop, nil
}

// tailFaults passes announcements to record, one line of JSON each, until ctx ends. It waits for
// further lines at the end of the file.
func tailFaults(ctx context.Context, f io.Reader, record func(name, state string) error, log *slog.Logger) {
	r := bufio.NewReader(f)
	var line string
	tick := time.NewTicker(100 * time.Millisecond)
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
			err = record(a.Name, a.State)
		}
		if err != nil {
			log.Warn("wrong announcement of a fault", "line", strings.TrimSpace(line), "error", err)
		}
		line = ""
	}
}
