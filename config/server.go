package config

// Server is Gitpod's `server`.
type Server struct {
	Services Services `json:"services" doc:"The services of the API."`
}

// Services is Gitpod's `server.services`.
type Services struct {
	GRPC GRPC `json:"grpc" doc:"gRPC: the native API and the Gitpod API."`
	HTTP any  `json:"http,omitempty" doc:"Accepted and ignored."`
}

// GRPC is Gitpod's `server.services.grpc`.
type GRPC struct {
	Address string    `json:"address" doc:"Address to listen on."`
	TLS     ServerTLS `json:"tls" doc:"Certificates. Empty: plain text."`
}

// HTTP describes the port for browsers and for Gitpod's log clients.
type HTTP struct {
	Address   string    `json:"address" doc:"Address to listen on. 'none': there is no port, and builds report no log_info. Empty: :8081 if orchestrator.wsman.address is set, else none."`
	PublicURL string    `json:"publicURL" doc:"URL at which clients reach this port on any node, such as https://image-builder.example.com. Empty: http://<peer host>:<port>."`
	TLS       ServerTLS `json:"tls" doc:"Certificates. Empty: plain text."`
	UI        string    `json:"ui" doc:"The web page under /ui/: on, off or auto. auto serves it if http.address is set, http.publicURL is not set and there is no ws-manager, unless the page would show builds to callers that gRPC refuses."`
	Nodes     []string  `json:"nodes" doc:"URLs of this port on all nodes, as browsers reach them. The page switches to another node when a node fails. Empty: the page uses only the address that it was loaded from, such as a load balancer."`
}

// noHTTP is the HTTP address that turns the port off.
const noHTTP = "none"

// defaultHTTP is the HTTP address of a node with a ws-manager: Gitpod's clients find the logs there.
const defaultHTTP = ":8081"

// Listens returns the address to listen on, or "" if there is no port.
func (h HTTP) Listens() string {
	if h.Address == noHTTP {
		return ""
	}
	return h.Address
}
