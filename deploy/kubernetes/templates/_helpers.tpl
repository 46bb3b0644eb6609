{{- define "policy-server.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "policy-server.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "policy-server.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "policy-server.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "policy-server.selectorLabels" -}}
app.kubernetes.io/name: {{ include "policy-server.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end -}}

{{- define "policy-server.redisLabels" -}}
app.kubernetes.io/name: {{ include "policy-server.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: redis
{{- end -}}

{{- define "policy-server.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: policy-server
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- end -}}

{{- define "policy-server.labels" -}}
{{ include "policy-server.selectorLabels" . }}
{{ include "policy-server.commonLabels" . }}
{{- end -}}

{{- define "policy-server.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "policy-server.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* "yes" where the servers have a Redis in which they agree. */}}
{{- define "policy-server.isFleet" -}}
{{- if or .Values.redis.enabled .Values.secret.fleetUrl (and .Values.secret.existingSecret .Values.secret.keys.fleetUrl) -}}
yes
{{- end -}}
{{- end -}}

{{/* "yes" where there may be more than one server. */}}
{{- define "policy-server.isSeveral" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) -}}
yes
{{- end -}}
{{- end -}}

{{/* Fails with what is wrong with the values as a whole; the schema has said what is wrong with each. */}}
{{- define "policy-server.check" -}}
{{- $secret := .Values.secret -}}
{{- $given := list -}}
{{- range list "adminToken" "dataToken" "fleetUrl" "sessionUrl" -}}
{{- if get $secret . -}}{{- $given = append $given . -}}{{- end -}}
{{- if and (get $secret.keys .) (not $secret.existingSecret) -}}
{{- fail (printf "secret.keys.%s is set, and secret.existingSecret is not: expected the name of a Secret" .) -}}
{{- end -}}
{{- end -}}
{{- if and $secret.existingSecret $given -}}
{{- fail (printf "secret.existingSecret and secret.%s are both set: expected one of them" (first $given)) -}}
{{- end -}}
{{- if and .Values.redis.enabled (or $secret.fleetUrl $secret.keys.fleetUrl $secret.sessionUrl $secret.keys.sessionUrl) -}}
{{- fail "redis.enabled is true, and secret names a Redis too: expected one of them" -}}
{{- end -}}
{{- if and (include "policy-server.isSeveral" .) (not (include "policy-server.isFleet" .)) -}}
{{- fail "several servers without a Redis would each serve a version of their own: expected redis.enabled, secret.fleetUrl, or secret.existingSecret with secret.keys.fleetUrl" -}}
{{- end -}}
{{- if and .Values.state.existingClaim (include "policy-server.isSeveral" .) -}}
{{- fail "state.existingClaim is for one server: each needs a state folder of its own" -}}
{{- end -}}
{{- end -}}

{{/* A variable of the server from a Secret: (dict "root" $ "variable" … "key" …), the key as in `secret`. */}}
{{- define "policy-server.secretVariable" -}}
{{- $secret := .root.Values.secret -}}
{{- $name := $secret.existingSecret | default (include "policy-server.fullname" .root) -}}
{{- $key := "" -}}
{{- if $secret.existingSecret -}}
{{- $key = get $secret.keys .key -}}
{{- else if get $secret .key -}}
{{- $key = kebabcase .key -}}
{{- end -}}
{{- if $key -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $name }}
      key: {{ $key }}
{{- end -}}
{{- end -}}

{{- define "policy-server.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
