{{- define "ib.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "ib.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "ib.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "ib.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ib.selector" -}}
app.kubernetes.io/name: {{ include "ib.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ib.labels" -}}
{{ include "ib.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "ib.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "ib.headless" -}}{{ include "ib.fullname" . }}-nodes{{- end -}}
{{- define "ib.peerDomain" -}}{{ include "ib.headless" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}{{- end -}}
{{- define "ib.sealingSecret" -}}{{ .Values.keys.existingSealingSecret | default (printf "%s-sealing" (include "ib.fullname" .)) }}{{- end -}}
{{- define "ib.gossipSecret" -}}{{ .Values.keys.existingGossipSecret | default (printf "%s-gossip" (include "ib.fullname" .)) }}{{- end -}}
{{- define "ib.peerSecret" -}}
{{- if eq .Values.certs.mode "existing" -}}{{ required "certs.existingSecret: name the secret, or choose another certs.mode" .Values.certs.existingSecret }}
{{- else -}}{{ include "ib.fullname" . }}-peer{{- end -}}
{{- end -}}
{{- define "ib.buildkitSecret" -}}{{ .Values.buildkit.existingSecret | default (printf "%s-buildkit" (include "ib.fullname" .)) }}{{- end -}}
{{- define "ib.buildkitDomain" -}}{{ include "ib.fullname" . }}-buildkit.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}{{- end -}}

{{- /* ib.usesAPI is "true" if nodes use the Kubernetes API, and empty otherwise. */ -}}
{{- define "ib.usesAPI" -}}{{ if or .Values.kubernetes.enabled .Values.cluster.leaderLabel .Values.cluster.leaveOnScaleDown (eq .Values.cluster.peersFrom "endpoints") }}true{{ end }}{{- end -}}
{{- /* ib.buildsNamespace and ib.install are the namespace and the install label of build pods. They
come from the configuration of the service, which .Values.config may override. */ -}}
{{- define "ib.buildsNamespace" -}}{{ get ((include "ib.config" . | fromJson).kubernetes | default dict) "namespace" | default .Release.Namespace }}{{- end -}}
{{- define "ib.install" -}}
{{- $c := include "ib.config" . | fromJson -}}
{{ get ($c.kubernetes | default dict) "install" | default $c.cluster.name }}
{{- end -}}

{{- /* ib.config is the configuration of the service: the values of the chart, overridden by
.Values.config. It is JSON, because YAML would render large numbers as 1e+09. */ -}}
{{- define "ib.config" -}}
{{- $c := dict
  "dataDir" "/var/lib/image-builder"
  "metricsAddress" ":9500"
  "healthAddress" ":9501"
  "sealing" (dict "keyFile" "/run/image-builder/sealing.json")
  "cluster" (dict
    "name" .Values.cluster.name "address" ":7800"
    "expect" (.Values.cluster.expect | default .Values.replicas | int) "voters" (int .Values.cluster.voters)
    "tls" (dict "ca" "/run/image-builder/ca.pem" "crt" "/run/image-builder/node.pem" "key" "/run/image-builder/node-key.pem"))
-}}
{{- $k := dict -}}
{{- if eq .Values.cluster.peersFrom "endpoints" -}}
{{- $_ := set $k "service" (include "ib.headless" .) -}}
{{- else -}}
{{- $_ := set $c.cluster "dns" (printf "%s:7800" (include "ib.peerDomain" .)) -}}
{{- end -}}
{{- if .Values.cluster.leaderLabel -}}
{{- $_ := set $k "leaderLabel" true -}}
{{- end -}}
{{- if .Values.cluster.leaveOnScaleDown -}}
{{- $_ := set $k "leaveOnScaleDown" true -}}
{{- end -}}
{{- if $k -}}
{{- $_ := set $c.cluster "kubernetes" (set $k "namespace" .Release.Namespace) -}}
{{- end -}}
{{- if .Values.cluster.gossip.enabled -}}
{{- $_ := set $c.cluster "gossip" (dict "address" ":7946" "keyFile" "/run/image-builder/gossip.key") -}}
{{- end -}}
{{- $grpc := dict "address" ":8080" -}}
{{- if .Values.api.tlsSecret -}}
{{- $_ := set $grpc "tls" (dict "caPath" "/certs/ca.crt" "certPath" "/certs/tls.crt" "keyPath" "/certs/tls.key" "clientAuth" .Values.api.clientAuth) -}}
{{- end -}}
{{- $_ := set $c "server" (dict "services" (dict "grpc" $grpc)) -}}
{{- if .Values.http.enabled -}}
{{- $url := .Values.http.publicURL | default (printf "http://%s.%s.svc.%s:%v" (include "ib.fullname" .) .Release.Namespace .Values.clusterDomain .Values.http.port) -}}
{{- $_ := set $c "http" (dict "address" ":8081" "publicURL" $url "ui" (ternary "on" "off" .Values.http.ui)) -}}
{{- else -}}
{{- $_ := set $c "http" (dict "address" "none") -}}
{{- end -}}
{{- if .Values.pullSecret.name -}}
{{- $_ := set $c "orchestrator" (dict "pullSecretFile" "/pull-secret/config.json") -}}
{{- end -}}
{{- if .Values.buildkit.enabled -}}
{{- $addresses := list -}}
{{- range $i := until (int .Values.buildkit.replicas) -}}
{{- $addresses = append $addresses (printf "tcp://%s-buildkit-%d.%s:1234" (include "ib.fullname" $) $i (include "ib.buildkitDomain" $)) -}}
{{- end -}}
{{- $_ := set $c "buildkit" (dict "addresses" $addresses "tls" (dict "ca" "/buildkit-certs/ca.crt" "crt" "/buildkit-certs/tls.crt" "key" "/buildkit-certs/tls.key")) -}}
{{- end -}}
{{- if .Values.kubernetes.enabled -}}
{{- $_ := set $c "kubernetes" (dict
  "namespace" (.Values.kubernetes.namespace | default .Release.Namespace) "profile" .Values.kubernetes.profile "serviceAccount" (printf "%s-builds" (include "ib.fullname" .))
  "images" (dict "worker" (include "ib.image" .) "buildkit" .Values.kubernetes.buildkitImage)) -}}
{{- $_ := set $c "runtimes" (dict "dockerfile" "kubernetes") -}}
{{- end -}}
{{- with .Values.tracing -}}
{{- if .endpoint -}}
{{- $t := dict "endpoint" .endpoint "sampleRatio" .sampleRatio -}}
{{- if .tls.secret -}}
{{- $tls := dict "ca" "/tracing-certs/ca.crt" -}}
{{- if .tls.clientCertificate -}}
{{- $tls = merge $tls (dict "crt" "/tracing-certs/tls.crt" "key" "/tracing-certs/tls.key") -}}
{{- end -}}
{{- $_ := set $t "tls" $tls -}}
{{- end -}}
{{- $_ := set $c "tracing" $t -}}
{{- end -}}
{{- end -}}
{{- $own := deepCopy .Values.config -}}
{{- range $key := list "baseImageRepository" "workspaceImageRepository" -}}
{{- if and $own.orchestrator (not (index $own.orchestrator $key)) -}}{{- $_ := unset $own.orchestrator $key -}}{{- end -}}
{{- end -}}
{{- mergeOverwrite $c $own | toPrettyJson -}}
{{- end -}}

{{- /* ib.configChecksum changes if nodes must restart for a change of the configuration. A cluster
that grows or shrinks needs no restart. */ -}}
{{- define "ib.configChecksum" -}}
{{- $c := include "ib.config" . | fromJson -}}
{{- $_ := unset $c.cluster "expect" -}}
{{- $c | toJson | sha256sum -}}
{{- end -}}

{{- define "ib.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* ib.filesContainer is the common part of the init container and of the sidecar that copy
files. */ -}}
{{- define "ib.filesContainer" -}}
image: {{ include "ib.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: PEER_HOST
    {{- if eq .Values.cluster.peersFrom "endpoints" }}
    valueFrom: {fieldRef: {fieldPath: status.podIP}}
    {{- else }}
    value: $(POD_NAME).{{ include "ib.peerDomain" . }}
    {{- end }}
{{- if eq .Values.cluster.zoneFrom "podLabel" }}
  - name: ZONE
    valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
{{- end }}
resources:
  requests: {cpu: 5m, memory: 16Mi}
  limits: {memory: 64Mi}
securityContext:
  {{- include "ib.containerSecurity" . | nindent 2 }}
volumeMounts:
  - {name: scripts, mountPath: /scripts, readOnly: true}
  - {name: secrets, mountPath: /secrets, readOnly: true}
  - {name: peer-secret, mountPath: /peer, readOnly: true}
  - {name: node, mountPath: /run/image-builder}
{{- end -}}
