package node

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/config"
)

// serverTLS returns the TLS configuration of a port, or nil if it is not encrypted. key is the key
// of the configuration, for errors. Certificates are rotated while the node runs: each handshake
// checks the times of the files, and reads the files again after a change.
func serverTLS(key string, t config.ServerTLS, log *slog.Logger, protocols ...string) (*tls.Config, error) {
	if t.CertPath == "" && t.KeyPath == "" {
		return nil, nil
	}
	f := &tlsFiles{key: key, cfg: t, log: log, protocols: protocols}
	if err := f.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return f.current(), nil
		},
	}, nil
}

// tlsFiles are certificate, key and client CA of one port. If changed files cannot be read, the
// former content stays in use.
type tlsFiles struct {
	key       string // in the configuration, for errors
	cfg       config.ServerTLS
	log       *slog.Logger
	protocols []string

	mu          sync.Mutex
	loadedTimes [3]time.Time // modification times of the content in use
	reported    string       // the last logged error of changed files
	conf        *tls.Config
}

// current returns the configuration for a handshake. It logs each error of changed files once.
func (f *tlsFiles) current() *tls.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.modTimes() != f.loadedTimes {
		err := f.load()
		if err != nil && err.Error() != f.reported {
			f.reported = err.Error()
			f.log.Error("cannot read the changed certificates; the former ones stay in use", "err", err)
		}
	}
	return f.conf
}

// modTimes returns the modification times of the files; zero for one that is missing.
func (f *tlsFiles) modTimes() (at [3]time.Time) {
	for i, path := range []string{f.cfg.CAPath, f.cfg.CertPath, f.cfg.KeyPath} {
		if s, err := os.Stat(path); err == nil {
			at[i] = s.ModTime()
		}
	}
	return at
}

// load reads the files. If it fails, it leaves loadedTimes as it is, so that the next handshake
// reads them again: a correction such as chmod does not change the modification time.
func (f *tlsFiles) load() error {
	times := f.modTimes()
	pair, err := tls.LoadX509KeyPair(f.cfg.CertPath, f.cfg.KeyPath)
	if err != nil {
		return fmt.Errorf("%s: %w", f.key, err)
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: f.protocols, Certificates: []tls.Certificate{pair},
		// A resumed session would not verify its client with the present CA.
		SessionTicketsDisabled: true,
	}
	if f.cfg.CAPath != "" {
		pem, err := os.ReadFile(f.cfg.CAPath)
		if err != nil {
			return fmt.Errorf("%s.caPath: %w", f.key, err)
		}
		conf.ClientCAs = x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s.caPath: %s contains no certificate", f.key, f.cfg.CAPath)
		}
		conf.ClientAuth = tls.VerifyClientCertIfGiven
		if f.cfg.ClientAuth == "require" {
			conf.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	f.conf, f.loadedTimes, f.reported = conf, times, ""
	return nil
}
