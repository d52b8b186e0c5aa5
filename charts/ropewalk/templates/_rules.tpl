{{/* What the operator may do in the namespaces it looks after: exactly what its code asks for. A test of the operator compares the two. */}}
{{- define "ropewalk.rules" -}}
- apiGroups: [ropewalk.dev]
  resources: [queues]
  verbs: [list, watch, patch]
- apiGroups: [ropewalk.dev]
  resources: [brokerclusters]
  verbs: [get, list, watch, create, patch]
- apiGroups: [ropewalk.dev]
  resources: [queues/status, brokerclusters/status]
  verbs: [patch]
# Where the owner of an object may block its deletion, whoever makes the object needs this.
- apiGroups: [ropewalk.dev]
  resources: [brokerclusters/finalizers]
  verbs: [update]
# Brokers: a StatefulSet, a volume and a Service each, and an account that may do nothing. All but the volumes are removed by Kubernetes itself.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch]
# Volumes are deleted under `deletionPolicy: Delete` only.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
# A broker is restarted by an eviction, which the disruption budgets may refuse.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# The token of each cluster's admin interface. Secrets are never listed: only those that the operator knows by name are read.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
# Whether a namespace is being deleted.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# Consumers. The objects themselves are read only to find out who sets their replicas back.
- apiGroups: [apps]
  resources: [deployments/scale, statefulsets/scale, replicasets/scale]
  verbs: [get, update]
- apiGroups: [apps]
  resources: [deployments, statefulsets, replicasets]
  verbs: [get]
{{- range .Values.scaling.extraTargets }}
- apiGroups: [{{ .apiGroup | quote }}]
  resources: ["{{ .resource }}/scale"]
  verbs: [get, update]
{{- end }}
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
{{- if dig "keda" true .Values.rbac }}
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list]
{{- end }}
# Why a pod or a volume does not come often stands in Events only; the operator's own tell what it did.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
