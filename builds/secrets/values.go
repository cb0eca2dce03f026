package secrets

import (
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Values returns every confidential value of a request. Logs and messages must not contain them.
func Values(s *buildsv1.Secrets) [][]byte {
	var values [][]byte
	add := func(b *imagebuilderv1.BasicAuth) {
		if b != nil {
			values = append(values, []byte(b.Password), []byte(b.Username+":"+b.Password))
		}
	}
	for _, c := range s.GetRegistry() {
		add(c)
	}
	add(s.GetGit())
	for _, v := range s.GetBuild() {
		values = append(values, v)
	}
	return values
}
