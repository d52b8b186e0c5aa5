{{- define "ropewalk.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* A release with the name of the chart does not repeat it in names: one operator is the usual case. */}}
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

{{/* Name of the Lease for this release and its `watchNamespaces`; if the list is empty, the name that all earlier releases used. */}}
{{- define "ropewalk.leaseName" -}}
{{- $watched := .Values.watchNamespaces | default list | uniq | sortAlpha | join "," }}
{{- if $watched }}
{{- printf "%s-%s" (include "ropewalk.operator" .) ($watched | sha256sum | trunc 8) }}
{{- else }}
{{- include "ropewalk.operator" . }}
{{- end }}
{{- end }}

{{/* Names of cluster-wide objects begin with the namespace of the release. */}}
{{- define "ropewalk.clusterwide" -}}
{{ .Release.Namespace }}-{{ include "ropewalk.operator" . }}
{{- end }}

{{/* Labels that never change, because a selector is immutable. */}}
{{- define "ropewalk.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ropewalk.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "ropewalk.labels" -}}
{{ include "ropewalk.selectorLabels" . }}
{{ include "ropewalk.releaseLabels" . }}
{{- end }}

{{/* Labels of the objects of `helm test`; the selector of the operator must not match them. */}}
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

{{/* The spec of the BrokerCluster that the operator creates for a Queue, as JSON. The pull secrets of the brokers are added unless the spec has its own. The values of an earlier release do not have this section. */}}
{{- define "ropewalk.defaultCluster" -}}
{{- $spec := deepCopy ((.Values.defaultCluster).spec | default dict) }}
{{- if .Values.broker.imagePullSecrets }}
{{- $template := dict "imagePullSecrets" .Values.broker.imagePullSecrets }}
{{- $spec = mergeOverwrite (dict "podTemplate" $template) $spec }}
{{- end }}
{{- toJson $spec }}
{{- end }}
