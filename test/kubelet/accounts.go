//go:build kubernetes

package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func (c *Cluster) kubeconfig(name string) string { return filepath.Join(c.Dir, name+".kubeconfig") }

// writeKubeconfigs writes a kubeconfig file for each identity.
func (c *Cluster) writeKubeconfigs() error {
	for _, id := range identities {
		user := &clientcmdapi.AuthInfo{ClientCertificate: filepath.Join(c.Dir, id.file+".crt"), ClientKey: filepath.Join(c.Dir, id.file+".key")}
		if err := c.writeKubeconfig(c.kubeconfig(id.file), user); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) writeKubeconfig(file string, user *clientcmdapi.AuthInfo) error {
	k := clientcmdapi.NewConfig()
	k.Clusters["test"] = &clientcmdapi.Cluster{Server: apiServer, CertificateAuthority: filepath.Join(c.Dir, "ca.crt")}
	k.AuthInfos["test"] = user
	k.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test"}
	k.CurrentContext = "test"
	return clientcmd.WriteToFile(*k, file)
}

// AdminKubeconfig returns the path of the kubeconfig file of an administrator.
func (c *Cluster) AdminKubeconfig() string { return c.kubeconfig("admin") }

// Kubeconfig makes a kubeconfig file for an existing service account, and returns its path.
func (c *Cluster) Kubeconfig(ctx context.Context, namespace, account string) (string, error) {
	hours := int64(24 * time.Hour / time.Second)
	token, err := c.Client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &hours}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("make a token of the service account %s/%s: %w", namespace, account, err)
	}
	f, err := os.CreateTemp(c.Dir, account+"-*.kubeconfig")
	if err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	return f.Name(), c.writeKubeconfig(f.Name(), &clientcmdapi.AuthInfo{Token: token.Status.Token})
}
