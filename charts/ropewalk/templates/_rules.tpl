{{/* What the operator may do in the namespaces it looks after. Never more than the code asks for. */}}
{{- define "ropewalk.rules" -}}
- apiGroups: [ropewalk.dev]
  resources: [queues, brokerclusters]
  verbs: [get, list, watch, create, update, patch]
- apiGroups: [ropewalk.dev]
  resources: [queues/status, brokerclusters/status, queues/finalizers, brokerclusters/finalizers]
  verbs: [get, update, patch]
# Brokers: a StatefulSet, a volume and a Service each, and an account that may do nothing.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts, configmaps, persistentvolumeclaims]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete, patch]
# The token of each cluster's admin interface. Secrets are never listed: only those that the operator knows by name are read.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch, delete]
# Consumers.
- apiGroups: [apps]
  resources: [deployments/scale, statefulsets/scale, replicasets/scale]
  verbs: [get, update, patch]
{{- range .Values.scaling.extraTargets }}
- apiGroups: [{{ .apiGroup | quote }}]
  resources: ["{{ .resource }}/scale"]
  verbs: [get, update, patch]
{{- end }}
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
# Why a pod or a volume does not come often stands in Events only; the operator's own tell what it did.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
