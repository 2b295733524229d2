{{- define "tallyslice.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "tallyslice.labels" -}}
{{ include "tallyslice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "tallyslice.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The cluster file. A node's id is the name of its pod; its host is the name that is in the pod's own /etc/hosts. */ -}}
{{- define "tallyslice.cluster" -}}
{{- $name := include "tallyslice.name" . -}}
{{- $domain := printf "%s.svc.%s" .Release.Namespace .Values.clusterDomain -}}
{{- $apis := dict -}}
{{- range $n := until (int .Values.api.replicas) -}}
{{- $_ := set $apis (printf "%s-api-%d" $name $n) (printf "http://%s-api-%d.%s-api.%s:8080/analytics" $name $n $name $domain) -}}
{{- end -}}
{{- $workers := dict -}}
{{- $ids := list -}}
{{- range $n := until (int .Values.worker.replicas) -}}
{{- $id := printf "%s-worker-%d" $name $n -}}
{{- $ids = append $ids $id -}}
{{- $_ := set $workers $id (printf "http://%s.%s-worker.%s:8080/worker" $id $name $domain) -}}
{{- end -}}
{{- $file := deepCopy .Values.cluster -}}
{{- if not $file.routing -}}
{{- $_ := set $file "routing" (list (dict "slice" 0 "nodes" $ids)) -}}
{{- end -}}
{{- if not (hasKey $file "registry") -}}
{{- $_ := set $file "registry" (first $ids) -}}
{{- end -}}
{{- $_ := set $file "api-nodes" $apis -}}
{{- $_ := set $file "worker-nodes" $workers -}}
{{- $_ := set $file "secret-file" "/run/tallyslice/secret.key" -}}
{{- $_ := set $file "internal-token-file" "/run/tallyslice/internal.token" -}}
{{- toPrettyJson $file -}}
{{- end }}

{{- /* What the pods of both kinds have alike. */ -}}
{{- define "tallyslice.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "tallyslice.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "tallyslice.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
{{- end }}

{{- define "tallyslice.probes" -}}
startupProbe:
  httpGet: { path: /livez, port: http }
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: { path: /livez, port: http }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: http }
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 1
{{- end }}
