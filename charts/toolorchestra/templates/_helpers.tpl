{{- define "toolorchestra.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "toolorchestra.operator" -}}{{ include "toolorchestra.fullname" . }}-operator{{- end -}}
{{- define "toolorchestra.nats" -}}{{ include "toolorchestra.fullname" . }}-nats{{- end -}}

{{- define "toolorchestra.serviceAccount" -}}
{{- default (include "toolorchestra.operator" .) .Values.operator.serviceAccount.name -}}
{{- end -}}

{{/* Labels of an object: (list $ "component"). */}}
{{- define "toolorchestra.labels" -}}
{{- $ := index . 0 -}}
{{ include "toolorchestra.podLabels" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Of a pod: nothing that changes with the chart's version, which would roll it. Network policies go by `part-of`. */}}
{{- define "toolorchestra.podLabels" -}}
{{ include "toolorchestra.selector" . }}
app.kubernetes.io/part-of: toolorchestra
{{- end -}}

{{- define "toolorchestra.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: toolorchestra
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* An image of this project: (list $ "worker"). */}}
{{- define "toolorchestra.image" -}}
{{- $ := index . 0 -}}
{{- $image := index $.Values.images (index . 1) -}}
{{- $name := $image.repository -}}
{{- if $.Values.imageRegistry -}}{{- $name = printf "%s/%s" (trimSuffix "/" $.Values.imageRegistry) $name -}}{{- end -}}
{{- include "toolorchestra.reference" (list $name (default $.Chart.AppVersion $image.tag) $image.digest) -}}
{{- end -}}

{{- define "toolorchestra.reference" -}}
{{- if index . 2 -}}
{{- printf "%s@%s" (index . 0) (index . 2) -}}
{{- else -}}
{{- printf "%s:%s" (index . 0) (index . 1) -}}
{{- end -}}
{{- end -}}

{{/* The restricted profile, whole: in a pod and in each of its containers. */}}
{{- define "toolorchestra.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "toolorchestra.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What every pod of the chart has beside its containers: (list $ values-of-the-component). */}}
{{- define "toolorchestra.pod" -}}
{{- $ := index . 0 -}}
{{- $own := index . 1 -}}
enableServiceLinks: false
securityContext:
  {{- include "toolorchestra.podSecurity" $ | nindent 2 }}
{{- with $.Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Namespaces in which objects beside trainings and pools are made: those watched, those named, else the release's. */}}
{{- define "toolorchestra.trainingNamespaces" -}}
{{- $all := concat .Values.watchNamespaces .Values.networkPolicy.namespaces | uniq -}}
{{- if not $all -}}{{- $all = list .Release.Namespace -}}{{- end -}}
{{- $all | toJson -}}
{{- end -}}

{{- define "toolorchestra.testNamespace" -}}
{{- $watched := append .Values.watchNamespaces .Release.Namespace | first -}}
{{- default $watched .Values.test.namespace -}}
{{- end -}}

{{/* Ports that the operator may reach: those of the values, and of the URLs that it is given. */}}
{{- define "toolorchestra.egressPorts" -}}
{{- $ports := list -}}
{{- range .Values.networkPolicy.egress.ports }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- $urls := list .Values.telemetry.otlpEndpoint .Values.proxy.http .Values.proxy.https -}}
{{- range concat $urls (splitList "," .Values.nats.url) -}}
{{- with regexFind ":[0-9]+(/|$)" . -}}{{ $ports = append $ports (int (trimAll ":/" .)) }}{{ end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* Hosts that may be experts; the chart's simulator is one. */}}
{{- define "toolorchestra.allowedHosts" -}}
{{- $hosts := .Values.pools.allowedHosts -}}
{{- if .Values.simulator.enabled -}}
{{- $simulator := printf "simulator.%s" .Release.Namespace -}}
{{- $hosts = concat $hosts (list "simulator" $simulator (printf "%s.svc" $simulator) (printf "%s.svc.cluster.local" $simulator)) -}}
{{- end -}}
{{- /* A comma alone is no host; an empty variable would be the default. */ -}}
{{- join "," $hosts | default "," -}}
{{- end -}}

{{/* A mistake in the values that a schema cannot see. */}}
{{- define "toolorchestra.check" -}}
{{- if and .Values.nats.enabled (or .Values.nats.url .Values.nats.urlSecret.name) -}}
{{- fail "nats.url and nats.urlSecret name a NATS server that is there: set nats.enabled=false with them" -}}
{{- end -}}
{{- if and .Values.nats.url .Values.nats.urlSecret.name -}}
{{- fail "nats.url and nats.urlSecret.name exclude each other" -}}
{{- end -}}
{{- if contains "@" .Values.nats.url -}}
{{- fail "nats.url holds credentials, and whoever may read the Deployment would read them: put the URL into a Secret, and name that in nats.urlSecret.name" -}}
{{- end -}}
{{- if contains "://" .Values.imageRegistry -}}
{{- fail "imageRegistry is no URL: leave out what stands before the host, as in registry.example/team" -}}
{{- end -}}
{{- if and (not .Values.operator.serviceAccount.create) (not .Values.operator.serviceAccount.name) -}}
{{- fail "operator.serviceAccount.create=false needs operator.serviceAccount.name" -}}
{{- end -}}
{{- end -}}
