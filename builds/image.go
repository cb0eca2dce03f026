package builds

import "errors"

// Image is an image in a registry.
type Image struct {
	// Ref is the reference by digest, as Docker normalises it.
	Ref       string
	Digest    string
	SizeBytes int64
}

// ImageErrorKind is the reason why a registry returned no image.
type ImageErrorKind int

// Kinds of image errors.
const (
	ImageInvalid      ImageErrorKind = iota + 1 // the reference is malformed or its host is not allowed
	ImageNotFound                               // the registry does not have the image
	ImageUnauthorized                           // the rights of the request do not suffice
	ImageUnavailable                            // the registry cannot be reached now
)

// ImageError is the failure of a registry to return an image. Its text names the image and contains
// no credential.
type ImageError struct {
	Kind ImageErrorKind
	Ref  string
	Err  error
}

// Error returns the text of the cause.
func (e *ImageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ImageError) Unwrap() error { return e.Err }

// ImageErrorKindOf returns the kind of an image error, or 0 for any other error.
func ImageErrorKindOf(err error) ImageErrorKind {
	var e *ImageError
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}
