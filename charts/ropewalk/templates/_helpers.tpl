{{- define "ropewalk.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* One operator is the usual case, so a release called like the chart is not called so twice. */}}
{{- define "ropewalk.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := include "ropewalk.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ropewalk.operator" -}}
{{ include "ropewalk.fullname" . }}-operator
{{- end }}

{{/* The Lease of this release, for the namespaces that it watches; without any, the name is the one of all earlier releases. */}}
{{- define "ropewalk.leaseName" -}}
{{- $watched := .Values.watchNamespaces | default list | uniq | sortAlpha | join "," }}
{{- if $watched }}
{{- printf "%s-%s" (include "ropewalk.operator" .) ($watched | sha256sum | trunc 8) }}
{{- else }}
{{- include "ropewalk.operator" . }}
{{- end }}
{{- end }}

{{/* Names of objects that have no namespace carry the release's. */}}
{{- define "ropewalk.clusterwide" -}}
{{ .Release.Namespace }}-{{ include "ropewalk.operator" . }}
{{- end }}

{{/* What never changes: a selector cannot. */}}
{{- define "ropewalk.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ropewalk.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "ropewalk.labels" -}}
{{ include "ropewalk.selectorLabels" . }}
{{ include "ropewalk.releaseLabels" . }}
{{- end }}

{{/* What `helm test` makes is no part of the operator, and its selector must not find it. */}}
{{- define "ropewalk.testLabels" -}}
app.kubernetes.io/name: {{ include "ropewalk.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{ include "ropewalk.releaseLabels" . }}
{{- end }}

{{- define "ropewalk.releaseLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: ropewalk
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ropewalk.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "ropewalk.operator" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "ropewalk.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "ropewalk.brokerImage" -}}
{{- if .Values.broker.image.digest }}
{{- printf "%s@%s" .Values.broker.image.repository .Values.broker.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.broker.image.repository (default .Chart.AppVersion .Values.broker.image.tag) }}
{{- end }}
{{- end }}

{{/* The spec of the BrokerCluster that is made for a Queue, as JSON; the pull secrets of the brokers are added unless it names its own. Values of an earlier release lack the section. */}}
{{- define "ropewalk.defaultCluster" -}}
{{- $spec := deepCopy ((.Values.defaultCluster).spec | default dict) }}
{{- if .Values.broker.imagePullSecrets }}
{{- $template := dict "imagePullSecrets" .Values.broker.imagePullSecrets }}
{{- $spec = mergeOverwrite (dict "podTemplate" $template) $spec }}
{{- end }}
{{- toJson $spec }}
{{- end }}
