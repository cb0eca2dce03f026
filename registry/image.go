package registry

// Image is an image or an index in a registry.
type Image struct {
	// Ref is the digest form, as in docker.io/library/ubuntu@sha256:...
	Ref string
	// Digest is the digest in Ref.
	Digest string
	// SizeBytes is the total size of the compressed layers and the config; 0 if unknown, as after
	// Head.
	SizeBytes int64
	// MediaType is the media type of the manifest.
	MediaType string
	// Anonymous reports that no credential was used, so that everybody may see the image.
	Anonymous bool
}

// maxIndexDepth bounds how deep nested indexes are followed.
const maxIndexDepth = 3

// maxManifestBytes is twice the size that registries must accept by the distribution specification.
const maxManifestBytes = 8 << 20
