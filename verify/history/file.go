package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Save writes a history to a file as JSON lines, one per call. Load reads it.
func Save(path string, h History) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("save history: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for _, r := range h {
		if err := enc.Encode(r); err != nil {
			return fmt.Errorf("save history to %s: %w", path, err)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("save history to %s: %w", path, err)
	}
	return nil
}

// Load reads a history that Save wrote. Unknown fields are an error.
func Load(path string) (History, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("load history: %w", err)
	}
	defer f.Close()
	dec := json.NewDecoder(bufio.NewReader(f))
	dec.DisallowUnknownFields()
	var h History
	for {
		var r Record
		switch err := dec.Decode(&r); {
		case errors.Is(err, io.EOF):
			return h, nil
		case err != nil:
			return nil, fmt.Errorf("load history from %s: call %d: %w", path, len(h)+1, err)
		}
		h = append(h, r)
	}
}
