package kubernetes

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
	"github.com/image-builder-ha/image-builder/tracing"
)

// workerName is the host name in the certificate of every worker.
const workerName = "worker.image-builder"

// secretOf renders the Secret of a pod, with one file for the worker and one for the proxy. Each
// file is mounted in its container only. The Secret is not immutable, because renew.go changes it.
func (r *Runtime) secretOf(ctx context.Context, w *workload.Workload, pod *corev1.Pod) (*corev1.Secret, *podapi.Job, error) {
	job, err := r.jobOf(w)
	if err != nil {
		return nil, nil, err
	}
	job.Traceparent = tracing.Traceparent(ctx)
	conf, failed, err := r.proxyOf(ctx, w, job)
	if err != nil {
		return nil, nil, err
	}
	for host, err := range failed {
		// If the request does not name the host, do not wait: renew tries again in a minute.
		if named(w, host) {
			return nil, nil, &credentialsError{err}
		}
		r.opts.Log.Warn("a build pod starts without a registry credential that is not available now", "pod", pod.Name, "host", host, "err", err)
	}
	jobRaw, err := json.Marshal(job)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the job of %s", pod.Name) // the error might quote secrets
	}
	confRaw, err := json.Marshal(conf)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the proxy's configuration for %s", pod.Name)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace,
			Labels:          podLabels(&r.opts, w),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
		},
		Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{jobFile: jobRaw, proxyFile: confRaw},
	}, job, nil
}

// named reports whether the request names the host, in its rights or as its source.
func named(w *workload.Workload, host string) bool {
	for _, h := range w.Rights.GetHosts() {
		if strings.EqualFold(h, host) {
			return true
		}
	}
	_, own := w.Rights.GetAdditional()[host]
	return own || strings.HasPrefix(w.Source.GetRef().GetRef(), host+"/")
}

func (r *Runtime) jobOf(w *workload.Workload) (*podapi.Job, error) {
	cert, key, err := selfSigned(w.Deadline)
	if err != nil {
		return nil, err
	}
	j := &podapi.Job{
		Listen: fmt.Sprintf(":%d", workerPort), Token: rand.Text(), Certificate: cert, Key: key,
		ProxyAddr: proxyAddr, ProxyToken: rand.Text(), BuildKit: socketURL,
		CacheRepository: r.opts.CacheRepository, Frontends: r.opts.Frontends, Networks: r.opts.Networks,
		ContextBytes: r.opts.ContextBytes, ContextFiles: r.opts.ContextFiles,
		AllowHosts: r.opts.AllowHosts, AllowLoopback: r.opts.AllowLoopback,
		Dir: spoolDir, SpoolBytes: r.opts.SpoolBytes, Linger: r.opts.Linger, TerminationPath: terminationPath,
	}
	if up := w.Source.GetDockerfile().GetUpload(); up != nil && r.opts.ContextRef != nil {
		j.ContextRef = r.opts.ContextRef(up.GetDigest())
	}
	return j, j.SetWorkload(w)
}

// credentialsError is an error of a credential provider, which may be temporary.
type credentialsError struct{ error }

func (e *credentialsError) Unwrap() error { return e.error }

// proxyOf returns the proxy configuration of the pod: what the pod may do with registries. Hosts in
// failed have no entry in Read, because their credentials cannot be determined now.
func (r *Runtime) proxyOf(ctx context.Context, w *workload.Workload, j *podapi.Job) (c *proxy.Config, failed map[string]error, err error) {
	c = &proxy.Config{
		Listen: j.ProxyAddr, Token: j.ProxyToken,
		Insecure: r.opts.Insecure, CA: r.opts.CA, Hosts: r.opts.Hosts, AllowHosts: r.opts.AllowHosts, AllowLoopback: r.opts.AllowLoopback,
		HTTPProxy: r.opts.HTTPProxy,
		Own:       map[string]proxy.Auth{},
	}
	own := []string{w.Ref}
	if d := w.Source.GetDockerfile(); d != nil {
		own = []string{w.BaseRef}
		c.Pull.Any = true
		if r.opts.CacheRepository != "" {
			c.Cache = &proxy.Cache{Repository: r.opts.CacheRepository, TagPrefix: buildkit.CacheTagPrefix, Write: r.opts.CacheWrite}
			own = append(own, r.opts.CacheRepository)
		}
		if j.ContextRef != "" {
			repo, tag := cutTag(j.ContextRef)
			c.Context = &proxy.Context{Repository: repo, Tag: tag, Digest: d.GetUpload().GetDigest()}
			own = append(own, repo)
		}
	} else {
		c.Pull.Image = w.Source.GetRef().GetRef()
	}
	repo, _ := cutTag(own[0])
	c.Push = &proxy.Push{Repository: repo}
	if c.Read, failed = r.opts.Credentials.Readable(ctx, w.Rights); ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	for _, ref := range own {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			return nil, nil, fmt.Errorf("%q is no image reference: %w", ref, err)
		}
		host := reference.Domain(named)
		auth, ok, err := r.opts.Credentials.Own(ctx, host)
		if err != nil {
			return nil, nil, &credentialsError{fmt.Errorf("find the install's credential for %s: %w", host, err)}
		}
		if ok {
			c.Own[host] = auth
		}
	}
	return c, failed, c.Validate()
}

// selfSigned creates a certificate that only owners trust, because they read it from the pod's
// Secret.
func selfSigned(until time.Time) (certPEM, keyPEM string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make the worker's key: %w", err)
	}
	if until.IsZero() {
		until = time.Now().AddDate(1, 0, 0)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: workerName},
		DNSNames:     []string{workerName},
		NotBefore:    time.Now().Add(-time.Hour), // tolerates differing clocks
		NotAfter:     until.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", "", fmt.Errorf("make the worker's certificate: %w", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", fmt.Errorf("encode the worker's key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})), nil
}

// decodeJob reads the job from a Secret: an owner that adopts a pod needs the token and the
// certificate.
func decodeJob(s *corev1.Secret) (*podapi.Job, error) {
	j := &podapi.Job{}
	if err := json.Unmarshal(s.Data[jobFile], j); err != nil || j.Token == "" {
		return nil, fmt.Errorf("the Secret %s/%s holds no job: somebody changed it", s.Namespace, s.Name)
	}
	return j, nil
}
