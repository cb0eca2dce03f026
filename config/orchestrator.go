package config

// Orchestrator is Gitpod's `orchestrator`.
type Orchestrator struct {
	WSManager                WSManager `json:"wsman,omitempty" doc:"Gitpod's workspace manager. The runtime wsmanager builds in its workspaces."`
	PullSecret               string    `json:"pullSecret,omitempty" doc:"Name of the secret with registry credentials for the proxy of build workspaces."`
	PullSecretFile           string    `json:"pullSecretFile" doc:"docker config.json with the credentials of the install. The file is read again when it changes."`
	BaseImageRepository      string    `json:"baseImageRepository" doc:"Repository of base images, without tag."`
	WorkspaceImageRepository string    `json:"workspaceImageRepository" doc:"Repository of workspace images, without tag."`
	BuilderImage             string    `json:"builderImage,omitempty" doc:"Image of build workspaces."`
	EnableAdditionalECRAuth  bool      `json:"enableAdditionalECRAuth,omitempty" doc:"Use the identity of this process at Amazon's registries. The same as registry.identities: [ecr]."`
	SubassemblyBucketName    string    `json:"subassemblyBucketName,omitempty" doc:"Accepted and ignored."`
	SubassemblyBucketPrefix  string    `json:"subassemblyBucketPrefix,omitempty" doc:"Accepted and ignored."`
}

// WSManager is Gitpod's `orchestrator.wsman`.
type WSManager struct {
	Address string   `json:"address,omitempty" doc:"Address of the workspace manager."`
	TLS     TLSFiles `json:"tls,omitempty" doc:"Client certificate for the workspace manager."`
}
