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

// Prepare completes a command in place. It changes only CreateBuild.
func (p Preparer) Prepare(_ context.Context, cmd *clusterv1.Command) error {
	if buildsv1.CommandType(cmd.GetType()) != buildsv1.CommandType_COMMAND_TYPE_CREATE_BUILD {
		return nil
	}
	c := new(buildsv1.CreateBuild)
	if err := proto.Unmarshal(cmd.GetPayload(), c); err != nil {
		return fmt.Errorf("decode CreateBuild: %w", err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make a build id: %w", err)
	}
	if c.Id == "" || !faults.Mutant("acknowledge-before-commit") {
		c.Id = id.String()
	}
	if c.Sealed, err = p.Keyring.Seal(c.Id, c.Secrets); err != nil {
		return err
	}
	c.Secrets = nil
	if cmd.Payload, err = proto.Marshal(c); err != nil {
		return fmt.Errorf("encode CreateBuild: %w", err)
	}
	return nil
}
