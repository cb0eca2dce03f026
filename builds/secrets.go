package builds

import (
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// SecretsOf lists every confidential value of a request.
func SecretsOf(s *buildsv1.Secrets) [][]byte {
	var secrets [][]byte
	add := func(b *imagebuilderv1.BasicAuth) {
		if b != nil {
			secrets = append(secrets, []byte(b.Password), []byte(b.Username+":"+b.Password))
		}
	}
	for _, c := range s.GetRegistry() {
		add(c)
	}
	add(s.GetGit())
	for _, v := range s.GetBuild() {
		secrets = append(secrets, v)
	}
	return secrets
}
