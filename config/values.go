package config

import (
	"encoding/json"
	"fmt"
	"time"
)

// Duration is a time.Duration that is written as Go writes it, such as "1h30m".
type Duration time.Duration

// MarshalText returns the duration as text.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText sets the duration from text.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write it like 30s, 10m or 1h30m", b)
	}
	*d = Duration(v)
	return nil
}

// Raw is a value that another package decodes. It is kept as JSON.
type Raw json.RawMessage

// MarshalJSON returns the value, or null if it is empty.
func (r Raw) MarshalJSON() ([]byte, error) { return json.RawMessage(r).MarshalJSON() }

// TLSFiles names the PEM files of a CA, a certificate and its key. The keys are those of Gitpod's
// orchestrator.wsman.tls.
type TLSFiles struct {
	CA   string `json:"ca,omitempty" doc:"CA, PEM file."`
	Cert string `json:"crt,omitempty" doc:"Certificate, PEM file."`
	Key  string `json:"key,omitempty" doc:"Key of the certificate, PEM file."`
}

// ServerTLS names the PEM files of a port that clients connect to. The keys are those of Gitpod's
// server.services.grpc.tls.
type ServerTLS struct {
	CAPath     string `json:"caPath" doc:"CA of client certificates, PEM file. All three files are read again when they change."`
	CertPath   string `json:"certPath" doc:"Server certificate, PEM file."`
	KeyPath    string `json:"keyPath" doc:"Key of the server certificate, PEM file."`
	ClientAuth string `json:"clientAuth,omitempty" doc:"'require' refuses clients without a certificate. Empty: a client certificate is optional, and it is verified if there is one."`
}

// report records that the value of a key is wrong. The text after the key is formatted.
type report func(key, format string, args ...any)
