package registry

import (
	"context"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Client talks to registries. It is safe for concurrent use.
type Client struct {
	opts          Options
	plain         hostSet
	workspaceHost string
	config        *dockerConfig
	salt          []byte // of credential identities, random for each client
	wire          *wire
	hosts         hostTable
	sessions      *lru.Cache[string, *session]
	calls         *callGroup
	logins        *loginCache
	cache         *lookUpCache
	copies        *sharedCalls[string] // transfers of blobs, by blob and endpoints; each returns how the blob came
	throttle      func(context.Context, []byte) []byte
}
