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

// serverTLS answers how a port is encrypted, nil for not at all. Certificate,
// key and the CA of clients are looked at in each handshake, and read again
// when they changed: they are rotated while we run.
func serverTLS(key string, t config.TLSConfig, log *slog.Logger, protocols ...string) (*tls.Config, error) {
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

// tlsFiles are the files of one port. Files that changed and cannot be read
// leave the former ones in use.
type tlsFiles struct {
	key       string // of the configuration, for errors
	cfg       config.TLSConfig
	log       *slog.Logger
	protocols []string

	mu          sync.Mutex
	loadedTimes [3]time.Time // of what is in use
	reported    string       // why changed files are not
	conf        *tls.Config
}

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

func (f *tlsFiles) modTimes() (at [3]time.Time) {
	for i, path := range []string{f.cfg.CAPath, f.cfg.CertPath, f.cfg.KeyPath} {
		if s, err := os.Stat(path); err == nil {
			at[i] = s.ModTime()
		}
	}
	return at
}

// load leaves seen as it is when it fails: what mends files need not change
// their times, as chmod does not.
func (f *tlsFiles) load() error {
	seen := f.modTimes()
	pair, err := tls.LoadX509KeyPair(f.cfg.CertPath, f.cfg.KeyPath)
	if err != nil {
		return fmt.Errorf("%s: %w", f.key, err)
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: f.protocols, Certificates: []tls.Certificate{pair},
		// A resumed session would not ask the present CA about its client.
		SessionTicketsDisabled: true,
	}
	if f.cfg.CAPath != "" {
		pem, err := os.ReadFile(f.cfg.CAPath)
		if err != nil {
			return fmt.Errorf("%s.caPath: %w", f.key, err)
		}
		conf.ClientCAs = x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s.caPath: %s holds no certificate", f.key, f.cfg.CAPath)
		}
		conf.ClientAuth = tls.VerifyClientCertIfGiven
		if f.cfg.ClientAuth == "require" {
			conf.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	f.conf, f.loadedTimes, f.reported = conf, seen, ""
	return nil
}
