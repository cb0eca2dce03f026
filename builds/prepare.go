package builds

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/faults"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Preparer completes commands on the leader before they are replicated: it sets the ids of builds
// and seals their secrets.
type Preparer struct {
	Keyring *secrets.Keyring
}

// Prepare returns the command that is replicated for cmd. It does not change cmd, which is prepared
// again if this node loses the leadership before it has replicated the command. Commands other than
// CreateBuild need nothing and are returned as they are.
func (p Preparer) Prepare(_ context.Context, cmd *clusterv1.Command) (*clusterv1.Command, error) {
	if buildsv1.CommandType(cmd.GetType()) != buildsv1.CommandType_COMMAND_TYPE_CREATE_BUILD {
		return cmd, nil
	}
	c := new(buildsv1.CreateBuild)
	if err := proto.Unmarshal(cmd.GetPayload(), c); err != nil {
		return nil, fmt.Errorf("decode CreateBuild: %w", err)
	}
	if sealedBefore(c) {
		return cmd, nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("make a build id: %w", err)
	}
	if c.Id == "" || !faults.Mutant("acknowledge-before-commit") {
		c.Id = id.String()
	}
	if c.Sealed, err = p.Keyring.Seal(c.Id, c.Secrets); err != nil {
		return nil, err
	}
	c.Secrets = nil
	out := proto.CloneOf(cmd)
	if out.Payload, err = proto.Marshal(c); err != nil {
		return nil, fmt.Errorf("encode CreateBuild: %w", err)
	}
	return out, nil
}

// sealedBefore reports whether a former leader has already sealed the secrets of c. Versions up to
// 0.3.0 send such a command to the next leader, without the secrets in clear.
func sealedBefore(c *buildsv1.CreateBuild) bool {
	return c.Id != "" && c.Sealed != nil && proto.Size(c.Secrets) == 0
}
