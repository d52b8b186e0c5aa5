{{/* Rights of the operator in the namespaces that it watches: exactly the calls of its code. A test of the operator compares the two. */}}
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
# Needed to set `blockOwnerDeletion` where the admission plugin OwnerReferencesPermissionEnforcement is on.
- apiGroups: [ropewalk.dev]
  resources: [brokerclusters/finalizers]
  verbs: [update]
# Brokers: a StatefulSet, a volume and a Service each, and a ServiceAccount without rights. Kubernetes removes all but the volumes.
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
# The operator deletes volumes under `deletionPolicy: Delete` only.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
# The operator restarts a broker by evicting its pod, which disruption budgets may refuse.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/eviction]
  verbs: [create]
# The token of each cluster's admin API. Secrets are never listed: the operator reads only those that it knows by name, and of those
# that `objectStorage` names only which keys they have.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch]
# Read to find out whether a namespace is being deleted.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# Consumers. The objects themselves are read only to find the field manager that reverts their replicas.
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
# The cause of a missing pod or volume is often in Events only; the operator's own Events report what it did.
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
