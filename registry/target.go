package registry

import "slices"

const (
	pull = "pull"
	push = "push,pull"
)

// target is a repository, with the permissions, credential and mirrors to access it.
type target struct {
	host    string // the domain of the reference
	path    string // the repository at that host
	actions string // pull or push
	from    string // another repository on the host to mount blobs from; may be empty
	cred    credential
	mirrors []target // tried in order before the host
}

// anonymous reports that no credential is used, neither for the host nor for a mirror.
func (t target) anonymous() bool {
	return t.cred.anonymous() && !slices.ContainsFunc(t.mirrors, func(m target) bool { return !m.anonymous() })
}

// secrets returns the secrets of all credentials that may be used.
func (t target) secrets() []string {
	out := t.cred.secrets()
	for _, m := range t.mirrors {
		out = append(out, m.cred.secrets()...)
	}
	return out
}
