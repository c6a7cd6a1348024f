{{- define "flow-agent.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* At most 50 characters: "-server" and its like follow, and 63 is the most that a label may have. */}}
{{- define "flow-agent.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := include "flow-agent.name" . }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "flow-agent.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "flow-agent.selector" -}}
app.kubernetes.io/name: {{ include "flow-agent.name" .top }}
app.kubernetes.io/instance: {{ .top.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The labels and annotations of an object: a dict of top, component, annotations. */}}
{{- define "flow-agent.metadata" -}}
labels:
  {{- include "flow-agent.labels" . | nindent 2 }}
{{- $annotations := merge (dict) (default (dict) .annotations) (default (dict) .top.Values.commonAnnotations) }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "flow-agent.labels" -}}
{{- $labels := dict "helm.sh/chart" (printf "%s-%s" .top.Chart.Name .top.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") "app.kubernetes.io/managed-by" .top.Release.Service }}
{{- $_ := set $labels "app.kubernetes.io/version" (.top.Chart.AppVersion | trunc 63) }}
{{- $own := include "flow-agent.selector" . | fromYaml }}
{{- toYaml (merge (dict) $own $labels (default (dict) .labels) (default (dict) .top.Values.commonLabels)) }}
{{- end }}

{{- define "flow-agent.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{ end }}
{{- end }}
{{- end }}

{{- define "flow-agent.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "flow-agent.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "flow-agent.jobServiceAccount" -}}
{{- if .Values.jobServiceAccount.create }}
{{- default (printf "%s-job" (include "flow-agent.fullname" .)) .Values.jobServiceAccount.name }}
{{- else }}
{{- default "default" .Values.jobServiceAccount.name }}
{{- end }}
{{- end }}

{{/* The namespaces of Jobs, as a JSON list. */}}
{{- define "flow-agent.jobNamespaces" -}}
{{- default (list (include "flow-agent.namespace" .)) .Values.jobNamespaces | toJson }}
{{- end }}

{{/* The port of an address: a dict of address and setting, which names it. */}}
{{- define "flow-agent.port" -}}
{{- $port := regexFind ":[0-9]+$" .address | trimPrefix ":" }}
{{- if not $port }}{{ fail (printf "%s %q is no address: expected HOST:PORT, as :8080" .setting .address) }}{{ end }}
{{- if or (lt (atoi $port) 1) (gt (atoi $port) 65535) }}{{ fail (printf "%s %q has no port from 1 to 65535" .setting .address) }}{{ end }}
{{- $port }}
{{- end }}

{{- define "flow-agent.probesPort" -}}
{{- include "flow-agent.port" (dict "setting" "config.probes.listen" "address" ((.Values.config.probes).listen | default "")) }}
{{- end }}

{{- define "flow-agent.serverPort" -}}
{{- include "flow-agent.port" (dict "setting" "config.server.listen" "address" ((.Values.config.server).listen | default "")) }}
{{- end }}

{{- define "flow-agent.serverURL" -}}
{{ ternary "http" "https" (empty .Values.server.tlsSecret) }}://{{ include "flow-agent.fullname" . }}-server.{{ include "flow-agent.namespace" . }}:{{ .Values.server.service.port }}
{{- end }}

{{/* The Secret and its key with the authorities by which the server of the queue is checked, as JSON; no name: none. */}}
{{- define "flow-agent.authorities" -}}
{{- $found := dict }}
{{- if and .Values.existingSecret .Values.existingSecretCAKey }}
{{- $found = dict "name" .Values.existingSecret "key" .Values.existingSecretCAKey }}
{{- else if and .Values.server.enabled .Values.server.tlsSecret .Values.server.tlsSecretCAKey }}
{{- $found = dict "name" .Values.server.tlsSecret "key" .Values.server.tlsSecretCAKey }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* What an agent of this release would take, as the server is asked for it. */}}
{{- define "flow-agent.waitingQuery" -}}
{{- $words := list }}
{{- range (.Values.config.agent).launchers }}{{ $words = append $words (printf "launcher=%s" (urlquery .)) }}{{ end }}
{{- range (.Values.config.agent).labels | default (list "") }}{{ $words = append $words (printf "label=%s" (urlquery .)) }}{{ end }}
{{- if (.Values.config.agent).only_labelled }}{{ $words = append $words "only_labelled=true" }}{{ end }}
{{- with $words }}?{{ join "&" . }}{{ end }}
{{- end }}

{{- define "flow-agent.checks" -}}
{{- $name := include "flow-agent.fullname" . }}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "%q, by which this release's objects are named, cannot name a Service: set fullnameOverride to small letters, digits and -, with a letter first" $name) }}
{{- end }}
{{- if not (regexMatch "^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$" (include "flow-agent.name" .)) }}
{{- fail (printf "nameOverride %q cannot be the value of a label: expected letters, digits, -, _ and ., a letter or digit first and last" .Values.nameOverride) }}
{{- end }}
{{- $queue := default "" .Values.config.queue }}
{{- /* What has no user with a password in front of its host, even where a character of that is not quoted as it should be. */}}
{{- $host := "(\\[[0-9A-Fa-f:.]+\\]|[^][/?#:@,]*)(:[0-9]+)?" }}
{{- $plain := printf "^[A-Za-z0-9+.-]+://([^/?#:@]*@)?%s(,%s)*(/[^?#@]*)?([?][A-Za-z_]+=.*)?$" $host $host }}
{{- if or (and (regexMatch "//[^@]*:[^@]*@" $queue) (not (regexMatch $plain $queue))) (regexMatch "(?i)(^|[?&;\\s])[a-z_]*(password|%[0-9a-f]{2})[^=&]*=" $queue) }}
{{- fail "config.queue holds a password, and would stand in a ConfigMap: put the URL into a Secret, and name it in existingSecret and existingSecretQueueKey" }}
{{- end }}
{{- if .Values.config.queue_token }}
{{- fail "config.queue_token would stand in a ConfigMap: put it into a Secret, and name it in existingSecret and existingSecretTokenKey" }}
{{- end }}
{{- $keyed := and .Values.existingSecret .Values.existingSecretQueueKey }}
{{- if not (or .Values.server.enabled $queue $keyed) }}
{{- fail "no queue is named, and one in the pod would end with it: set server.enabled, config.queue, or existingSecret with existingSecretQueueKey" }}
{{- end }}
{{- if and (hasPrefix "sqlite:" $queue) (not .Values.server.enabled) (not $keyed) }}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1) }}
{{- fail "config.queue is in SQLite, which agents in several pods cannot share: set server.enabled, or name a queue in PostgreSQL" }}
{{- end }}
{{- $lost := list }}
{{- range .Values.extraVolumes }}{{ if hasKey . "emptyDir" }}{{ $lost = append $lost .name }}{{ end }}{{ end }}
{{- $kept := false }}
{{- $file := $queue | trimPrefix "sqlite:" | trimPrefix "//" }}
{{- range .Values.extraVolumeMounts }}
{{- if and (hasPrefix (printf "%s/" (trimSuffix "/" .mountPath)) $file) (not (has .name $lost)) }}{{ $kept = true }}{{ end }}
{{- end }}
{{- if not $kept }}
{{- fail "config.queue is a file in the pod, which would end with it: set server.enabled, or mount a volume that stays below its path (extraVolumes and extraVolumeMounts)" }}
{{- end }}
{{- end }}
{{- if and .Values.secrets (not (.Values.config.secrets).dir) }}
{{- fail "secrets names Secrets whose keys become files in config.secrets.dir, which is empty: set it to a folder" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas: raise the latter" }}
{{- end }}
{{- if and .Values.server.enabled $keyed }}
{{- fail "server.enabled and existingSecretQueueKey are set, so agents would pass by the server, which has a queue of its own: for a server in front of that queue, name the Secret of its URL in server.existingSecret and server.existingSecretKey instead; for agents without a server, leave server.enabled out" }}
{{- end }}
{{- if and .Values.server.enabled $queue (not (regexMatch "^https?://" $queue)) }}
{{- fail "server.enabled and config.queue are set, so agents would pass by the server, which has a queue of its own: for a server in front of that queue, put its URL into a Secret, and name it in server.existingSecret; for agents without a server, leave server.enabled out" }}
{{- end }}
{{- if and (gt (int .Values.server.replicaCount) 1) (not .Values.server.existingSecret) }}
{{- fail "server.replicaCount is more than 1, which needs a queue in PostgreSQL: name its Secret in server.existingSecret" }}
{{- end }}
{{- range $at, $spec := dict "podDisruptionBudget" (dict "spec" .Values.podDisruptionBudget "default" 1) "server.podDisruptionBudget" (dict "spec" .Values.server.podDisruptionBudget) }}
{{- $most := ($spec.spec).maxUnavailable }}
{{- $least := ($spec.spec).minAvailable }}
{{- if and (not (kindIs "invalid" $least)) (not (kindIs "invalid" $most)) (ne (toString $most) (toString $spec.default)) }}
{{- fail (printf "%s has minAvailable and maxUnavailable, of which Kubernetes takes one: leave one of them out" $at) }}
{{- end }}
{{- if and $spec.spec (kindIs "invalid" $least) (kindIs "invalid" $most) }}
{{- fail (printf "%s has neither minAvailable nor maxUnavailable: set one of them, or %s=null for no PodDisruptionBudget" $at $at) }}
{{- end }}
{{- end }}
{{- /* By hand, since merge takes 0 and false for nothing. */}}
{{- $context := deepCopy (default (dict) .Values.podSecurityContext) }}
{{- range $key, $value := .Values.securityContext }}{{ $_ := set $context $key $value }}{{ end }}
{{- if and $context.runAsNonRoot (eq (toString $context.runAsUser) "0") }}
{{- fail "runAsUser is 0, which Kubernetes starts no pod as while runAsNonRoot is true: set runAsNonRoot to false beside it, in podSecurityContext or securityContext" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.server.enabled) }}
{{- fail "ingress.enabled leads to the server, which server.enabled leaves out: set both" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.hosts is empty: name the hosts that lead to the server" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (eq (int .Values.autoscaling.minReplicas) 0) (or (eq .Values.autoscaling.kind "hpa") (not (or .Values.server.enabled .Values.autoscaling.url))) }}
{{- fail "autoscaling.minReplicas is 0: that needs KEDA, and a server of this release or autoscaling.url to ask while there are no agents" }}
{{- end }}
{{- if and .Values.autoscaling.enabled (eq (int .Values.autoscaling.minReplicas) 0) (not .Values.autoscaling.url) (ne (toString (.Values.config.server).access) "open") (not (and .Values.existingSecret .Values.existingSecretTokenKey)) }}
{{- fail "autoscaling.minReplicas is 0, so KEDA asks the server, which answers nobody without a token: name the Secret and its key in existingSecret and existingSecretTokenKey" }}
{{- end }}
{{- end }}

{{/* The settings file: what stands in config, without the home, which is a variable. */}}
{{- define "flow-agent.toml" -}}
{{- $settings := omit (deepCopy .Values.config) "home" "queue_token" }}
{{- if has "kubernetes" (default (list) (.Values.config.agent).launchers) }}
{{- /* What the chart knows better than a default: where Jobs may be, and as whom. */}}
{{- $namespaces := include "flow-agent.jobNamespaces" . | fromJsonArray }}
{{- $own := dict "namespace" (first $namespaces) "service_account" (include "flow-agent.jobServiceAccount" .) "agent_image" (include "flow-agent.image" .) }}
{{- $kubernetes := merge (dict) (default (dict) $settings.kubernetes) $own }}
{{- $allow := default (list) $kubernetes.allow }}
{{- range without $namespaces $kubernetes.namespace }}{{ $allow = append $allow (printf "namespace:%s" .) }}{{ end }}
{{- if $allow }}{{ $_ := set $kubernetes "allow" (uniq $allow) }}{{ end }}
{{- $_ := set $settings "kubernetes" $kubernetes }}
{{- end }}
{{- toToml $settings }}
{{- end }}

{{- define "flow-agent.container" -}}
image: {{ include "flow-agent.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* A probe: a dict of name, get (what it asks) and how (how often); nothing of the latter: none. */}}
{{- define "flow-agent.probe" -}}
{{- if .how -}}
{{ .name }}:
  httpGet: {{ .get }}
  {{- toYaml .how | nindent 2 }}
{{- end }}
{{- end }}

{{/* What all pods have in common. */}}
{{- define "flow-agent.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
